"""What both pages of costs share: reading a record, handing it on to the book, and showing a figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pandas as pd
from matplotlib.figure import Figure

from infra_lib import style
from infra_lib.checksums import check_record
from infra_lib.drawing_functions import numbered
from infra_lib.files import copied
from infra_lib.tables import escape


def read_record(root: Path, name: str) -> dict[str, Any] | None:
    """Return a record by its name below ``records``, or None where there is none.

    Raises
    ------
    DataError
        For a record that has changed, or is not in the list.
    """
    path = root / "records" / f"{name}.json"
    if not path.is_file():
        return None
    check_record(root, path)
    return json.loads(path.read_text(encoding="utf-8"))


def copied_record(root: Path, results: Path, name: str) -> str:
    """Copy a benchmark's record to the book's results and return where it lies among them."""
    path = root / "records" / f"{name}.json"
    return copied(path, results, f"data/performance/{name.replace('/', '-')}.json")


def shown(
    folder: Path, name: str, figure: Figure, data: pd.DataFrame, *, results: str, alt: str, caption: str
) -> str:
    """Write a figure's files and return the lines that include it."""
    style.save_figure(
        folder,
        "performance",
        name,
        figure,
        data=data,
        alt=alt,
        caption=caption,
        page="/performance",
        results=results,
    )
    return numbered("performance", name)


def target_row(
    what: str,
    measured: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    digits: int = 2,
) -> list[str]:
    """Return a row of a table of targets: what, what was asked, what was measured, met or missed.

    Parameters
    ----------
    at_least, at_most
        What was asked; exactly one of them.
    digits
        Behind the point of what was measured; more where rounding would hide on which side it lies.
    """

    def holds(value: float) -> bool:
        return value >= at_least if at_least is not None else value <= cast("float", at_most)

    met = holds(measured)
    while holds(round(measured, digits)) != met:
        digits += 1
    asked = f"{at_least:g} or more" if at_least is not None else f"{at_most:g} or less"
    verdict = (
        '<span class="verdict-reproduced">met</span>'
        if met
        else '<span class="verdict-not-reproduced">missed</span>'
    )
    return [escape(what), asked, f"<strong>{measured:.{digits}f}</strong>", verdict]
