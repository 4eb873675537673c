"""Rows of a data set, whatever they come from, and how a parser says that one cannot be used."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra_lib.errors import DataError


@dataclass(frozen=True)
class Row:
    """One row: where it stands (a file, or a hub name), its number there from 1, and its values by column."""

    where: str
    number: int
    values: Mapping[str, Any]


class BadRow(ValueError):
    """A row that cannot be parsed; the reader adds file and row number."""


@dataclass(frozen=True)
class Dropped:
    """A sound row that the caller's options leave out, with the reason that the report counts."""

    reason: str


def check_columns(where: str, found: Iterable[str], needed: Sequence[Sequence[str]]) -> None:
    """Raise where a column is missing.

    Parameters
    ----------
    needed
        One entry per column: the names under which it may come. Upper and lower case do not matter.

    Raises
    ------
    DataError
        Naming what is missing, the nearest names that are there, and all that is there.
    """
    names = [str(name) for name in found]
    lower = {name.lower(): name for name in names}
    missing = [choices for choices in needed if not any(choice.lower() in lower for choice in choices)]
    if not missing:
        return
    parts = []
    for choices in missing:
        close = [
            lower[c]
            for choice in choices
            for c in difflib.get_close_matches(choice.lower(), lower, n=2, cutoff=0.6)
        ]
        hint = f" (nearest: {', '.join(dict.fromkeys(close))})" if close else ""
        parts.append(" or ".join(choices) + hint)
    wanted = ", ".join(" or ".join(choices) for choices in needed)
    there = ", ".join(names) or "none"
    raise DataError(where, f"misses column {'; '.join(parts)}; needed: {wanted}; there: {there}")


def value(row: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    """Return the first of ``names`` that the row has and that is not null, in any case of letters."""
    lower = {str(key).lower(): key for key in row}
    for name in names:
        key = lower.get(name.lower())
        if key is not None and row[key] is not None:
            return row[key]
    return default


def text(row: Mapping[str, Any], *names: str) -> str:
    """Return a column's text.

    Raises
    ------
    BadRow
        Where it is missing, null, blank or no text.
    """
    found = value(row, *names)
    called = " or ".join(names)
    if not isinstance(found, str):
        raise BadRow(f"{called} is {shorten(found)}; it must be text")
    if not found.strip():
        raise BadRow(f"{called} is empty")
    return found


def optional_text(row: Mapping[str, Any], *names: str) -> str:
    """Return a column's text, empty where the column is missing or null."""
    found = value(row, *names, default="")
    if not isinstance(found, str):
        raise BadRow(f"{' or '.join(names)} is {shorten(found)}; it must be text")
    return found


def text_list(row: Mapping[str, Any], *names: str) -> list[str]:
    """Return a column that holds a list of texts; empty where the column is missing or null."""
    found = value(row, *names, default=[])
    if not isinstance(found, list | tuple) or not all(isinstance(part, str) for part in found):
        raise BadRow(f"{' or '.join(names)} is {shorten(found)}; it must be a list of texts")
    return list(found)


def shorten(thing: object) -> str:
    """Return the ``repr`` of a value, cut after 80 characters."""
    shown = repr(thing)
    return shown if len(shown) <= 80 else f"{shown[:77]}…"
