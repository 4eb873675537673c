"""Whether what a program answered is what was expected; done outside of every sandbox."""

from __future__ import annotations

from typing import Any


def same(value: Any, expected: Any) -> bool:
    """Compare two JSON values strictly: True is not 1, and 1.0 is not 1."""
    if type(value) is not type(expected):
        return False
    if isinstance(value, list):
        return len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(value, dict):
        return value.keys() == expected.keys() and all(same(value[key], expected[key]) for key in value)
    return bool(value == expected)


def same_output(stdout: str, expected: str) -> bool:
    """Compare printed text line by line, without blanks at the ends of lines and of the text."""
    found, wanted = ([line.rstrip() for line in text.rstrip().splitlines()] for text in (stdout, expected))
    return found == wanted


def plain_json(value: Any) -> Any:
    """Return a value as JSON would give it back: tuples as lists, keys as text.

    Raises
    ------
    TypeError
        For a value that JSON cannot say.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, dict):
        return {_key(key): plain_json(item) for key, item in value.items()}
    raise TypeError(f"a value of type {type(value).__name__} is nothing that JSON can say")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int | float):
        try:
            return repr(key)
        except ValueError:  # Python turns an integer into text up to 4,300 digits
            raise TypeError("a key of that many digits is nothing that JSON can say") from None
    raise TypeError(f"a key of type {type(key).__name__} is nothing that JSON can say")
