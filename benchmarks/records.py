"""Where benchmarks keep what they measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra_lib.checksums import list_anew
from infra_lib.files import write_json

RECORDS = Path(__file__).resolve().parents[1] / "records"


PLACES = ("--out", "--parts", "--disk", "--commit")
"""Options that say where things lie on a machine, each with a value: they do not change what is measured."""


def command_of(module: str, given: Sequence[str]) -> list[str]:
    """Return the command of a benchmark as its record keeps it: without the places of one machine."""
    kept: list[str] = []
    rest = iter(given)
    for word in rest:
        if word in PLACES:
            next(rest, None)
        elif word.partition("=")[0] not in PLACES:
            kept.append(word)
    return ["python", "-m", module, *kept]


def keep(path: Path, record: dict[str, Any], records: Path = RECORDS) -> None:
    """Write a benchmark's record; one among the project's records is listed with its new checksum, alone.

    Raises
    ------
    DataError
        For another record that differs from its line: its change must not pass with this one. What was
        measured is written nevertheless.
    """
    write_json(path, record)
    if path.resolve().is_relative_to(records):
        list_anew(records, path.resolve().relative_to(records).as_posix())
