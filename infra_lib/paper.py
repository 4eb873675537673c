"""What the paper reports, as data: loaded from ``paper.yaml`` and printed with its marks."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from infra_lib.tables import badge, escape, html_table, tip

MARKS = ("A", "B", "C", "I")


@cache
def load_paper() -> dict[str, Any]:
    """Return the paper's facts, numbers, claims, unknowns and confounds."""
    path = Path(__file__).with_name("paper.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def mark_says(mark: str | None) -> str:
    """Return how sure a mark is, in words; nothing for no mark."""
    return load_paper()["marks"][mark] if mark else ""


def facts_table() -> str:
    """Return the table of facts with their marks."""
    rows = [[escape(f["item"]), escape(f["fact"]), _mark(f["mark"])] for f in load_paper()["facts"]]
    return html_table(["what", "the paper", "mark"], rows, left=3, label="Facts of the paper", stacked=True)


def numbers_table() -> str:
    """Return the table of all numbers that could be found, with their marks."""
    rows = [
        [
            escape(n["experiment"]),
            escape(n["model"]),
            escape(n["benchmark"]),
            escape(n["arm"]),
            f"{n['value']:g} {n['unit']}"
            + (f"<br><small>{escape(n['note'])}</small>" if "note" in n else ""),
            _mark(n["mark"]),
        ]
        for n in load_paper()["numbers"]
    ]
    headers = ["experiment", "model", "benchmark", "arm", "value", "mark"]
    return (
        badge("reported")
        + "\n\n"
        + html_table(headers, rows, left=6, label="Numbers of the paper", stacked=True)
    )


def reference_table() -> str:
    """Return what a model card reports of the model before and after tuning; it is not the paper."""
    card = load_paper()["reference"]
    rows = [
        [escape(n["benchmark"]), *(f"{n[key]:g} {card['unit']}" for key in ("untuned", "tuned"))]
        for n in card["numbers"]
    ]
    caption = f"<p>{escape(card['model'])}, says the {escape(card['source'])}:</p>"
    table = html_table(["benchmark", "untuned", "tuned"], rows, left=1, label=card["source"], stacked=True)
    return f"{caption}\n\n{table}"


def marks_list() -> str:
    """Return the meaning of the marks as a Markdown list."""
    return "\n".join(f"- **{mark}**: {says}" for mark, says in load_paper()["marks"].items())


def bullet_list(key: str) -> str:
    """Return ``unknown`` or ``confounds`` as a Markdown list."""
    return "\n".join(f"- {item}" for item in load_paper()[key])


def _mark(mark: str) -> str:
    return tip(escape(mark), mark_says(mark))
