"""Where benchmarks keep what they measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infra_lib.checksums import list_anew
from infra_lib.files import write_json

RECORDS = Path(__file__).resolve().parents[1] / "records"


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
