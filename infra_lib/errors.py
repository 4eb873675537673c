"""Errors meant for a person: one sentence that names what is wrong and what would be right."""

from __future__ import annotations

import reprlib
from pathlib import Path

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 3, 20, 120, 120


def shown(value: object) -> str:
    """Return a value as an error names it: its ``repr``, cut where it is long, deep or cannot be written."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python refuses to write a whole number of more than 4,300 digits
        return f"a {type(value).__name__} of very many digits"


def printable(text: str) -> str:
    """Return text whose control characters are spelled out, so that a terminal obeys none of them."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class InfraError(Exception):
    """Base of every error that a user can cause; the command line prints it without a traceback."""


class ParameterError(InfraError):
    """A parameter has a value it cannot have.

    Parameters
    ----------
    name
        The parameter, as the user spells it (``difficulties``, ``--damping``).
    value
        What was given.
    valid
        The valid choices, as the end of the sentence "it must be …".
    """

    def __init__(self, name: str, value: object, valid: str) -> None:
        self.name, self.value, self.valid = name, value, valid
        super().__init__(f"parameter {name} is {shown(value)}: it must be {valid}")


class DataError(InfraError):
    """A file of examples or results cannot be used.

    Parameters
    ----------
    path
        The file.
    problem
        What is wrong with it and what would be right.
    line
        Line number, counted from 1, where the file has lines.
    """

    def __init__(self, path: str | Path, problem: str, line: int | None = None) -> None:
        self.path, self.problem, self.line = Path(path), problem, line
        where = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {problem}")


class ModelError(InfraError):
    """A model folder is missing, torn, or not of a kind that can be used."""


class NumericalError(InfraError):
    """A computation gave NaN, infinite, all-zero or constant numbers where that means a fault."""


class ProcessError(InfraError):
    """Another process of the same job ended, or did not answer."""


class InfraWarning(UserWarning):
    """A result is kept but should not be used without a look; the command line prints it as one line."""
