"""Run `infra attribute` from a test, and read what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from infra_lib.attribute import Options, attribute

ALL = ("example", "sentence", "token")


def options(model: Any, files: Path, out: Path, **change: Any) -> Options:
    return Options(str(model), files / "train.jsonl", files / "target.jsonl", out, **change)


def run(model: Any, files: Path, out: Path, **change: Any) -> Path:
    return attribute(options(model, files, out, **change), progress=False)


def table(out: Path, level: str) -> pd.DataFrame:
    return pd.read_parquet(out / f"{level}s.parquet")


def scores(out: Path) -> pd.Series:
    return table(out, "example").set_index(["id", "target"])["score"]


def provenance(out: Path) -> dict[str, Any]:
    return json.loads((out / "provenance.json").read_text())
