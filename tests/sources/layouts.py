"""Fixtures in the layouts of the hub, and ways to write them in other formats and to spoil them."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def rows_of(*parts: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in FIXTURES.joinpath(*parts).read_text("utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the path's ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.name.endswith(".json.gz"):
        path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    elif path.name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text(lines)
    return path


def copied(name: str, folder: Path) -> Path:
    """Copy a fixture, so that a test may spoil it."""
    return Path(shutil.copytree(FIXTURES / name, folder / name))
