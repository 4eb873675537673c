"""JSON and parquet files read back: their value, or an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from infra_lib.errors import DataError


def load_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises
    ------
    DataError
        For a file that is missing, torn, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(path, f"cannot be read as JSON ({error})") from None


def load_table(path: Path) -> pd.DataFrame:
    """Return a parquet file as a data frame.

    Raises
    ------
    DataError
        For a file that is missing, torn, or no table.
    """
    try:
        return pd.read_parquet(path)
    except Exception as error:  # a torn file makes the reader raise errors of many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(path, f"cannot be read as a parquet table ({reason})") from None
