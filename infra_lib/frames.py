"""Small helpers for data frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd


def rows(frame: pd.DataFrame) -> Iterator[Any]:
    """Yield a frame's rows as named tuples, whose fields a type checker cannot know."""
    return frame.itertuples()
