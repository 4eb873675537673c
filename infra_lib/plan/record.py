"""Plans of published models, kept as a record and shown in the book.

A plan depends on configurations and this code alone, so the record is the same wherever it is made; a test
makes a part of it again and compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from infra_lib.checksums import check_record, list_anew
from infra_lib.files import write_json
from infra_lib.frames import rows as each_row
from infra_lib.plan.hardware import count, duration, gib, gpu_machine
from infra_lib.plan.report import comparison
from infra_lib.plan.workload import Lengths
from infra_lib.provenance import environment
from infra_lib.tables import NOT_AVAILABLE, badge, escape, html_table

LENGTHS = Lengths(prompt=400, response=5000, longest=6144)
"""Tokens of long reasoning traces, cut at 6,144: our choice for these plans."""
DEVICES = (1, 8)
MISSING = "No plans are recorded here: `infra plan --record` makes them."


def compute(names: list[str] | None = None) -> pd.DataFrame:
    """Return the plans of published models on one and on eight 80 GiB devices."""
    return comparison([gpu_machine("h100", number) for number in DEVICES], names, lengths=LENGTHS)


def write_record(root: Path) -> Path:
    """Compute the plans and keep them under ``records/``; return the file."""
    path = root / "records" / "plans.json"
    frame = compute()
    rows = json.loads(frame.to_json(orient="records"))
    write_json(path, {"rows": rows, "lengths": vars(LENGTHS), "environment": environment()})
    list_anew(path.parent, path.name)
    return path


def plans_table(root: Path) -> str:
    """Return the table of recorded plans, or a line that says that there are none."""
    path = root / "records" / "plans.json"
    if not path.is_file():
        return MISSING
    check_record(root, path)
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for row in each_row(pd.DataFrame(record["rows"])):
        if row.refused:
            verdict = '<span class="verdict-not-reproduced">does not fit</span>'
            cost = [f"{verdict}<br><small>{escape(row.refused)}</small>", *["–"] * 4]
        else:
            how = escape(row.changes) or "as it is"
            cost = [
                f"<small>{how}</small>",
                f"{row.parts:.0f}",
                gib(row.peak_bytes),
                duration(row.seconds),
                gib(row.disk_bytes),
            ]
        rows.append(
            [
                f'<span class="one-line">{escape(row.model)}</span><br><small class="one-line">'
                f"{count(int(row.parameters))},<br>factors {gib(row.factor_bytes)}</small>",
                _devices(row.machine),
                *cost,
            ]
        )
    headers = ["model", "GPUs", "how it fits", "parts", "memory", "time", "disk"]
    lengths = record["lengths"]
    kinds = {row["machine"].partition(" × ")[2] for row in record["rows"]}
    tokens = lengths["prompt"] + lengths["response"]
    note = (
        f'<p class="table-note">GPUs: {escape(", ".join(sorted(kinds)))}. 17,000 examples of {tokens:,} '
        f"tokens, cut at {lengths['longest']:,}: "
        "three epochs of fine-tuning, generation, factors (fitted in so many parts), scores of two targets, "
        "and three more arms. Memory is per device; time supposes 40 % of the data sheet's peak (our "
        "choice).</p>"
    )
    table = html_table(headers, rows, left=3, label="Plans of published models", stacked=True)
    return f"{badge('recorded')}\n\n{table}{note}\n\n{_notebooks_table(record['rows'])}"


def _devices(machine: str) -> str:
    """Return how many devices a machine has, of a name such as "8 × NVIDIA H100 SXM"."""
    return escape(machine.partition(" × ")[0])


def _notebooks_table(plans: list[dict[str, Any]]) -> str:
    """Return memory, time and disk of each notebook, of the plans that fit."""
    planned = [plan for plan in plans if not plan["refused"]]
    names = sorted({name for plan in planned for name in plan["notebooks"]})
    rows = []
    for plan in planned:
        cells = []
        for name in names:
            cost = plan["notebooks"].get(name)
            if cost is None:
                cells.append(NOT_AVAILABLE)
                continue
            disk = f", {gib(cost['disk_bytes'])} on disk" if cost["disk_bytes"] else ""
            cells.append(f"{duration(cost['seconds'])}<br><small>{gib(cost['peak_bytes'])}{disk}</small>")
        model = f'<span class="one-line">{escape(plan["model"])}</span>'
        rows.append([model, _devices(plan["machine"]), *cells])
    headers = ["model", "GPUs", *(name.replace("_", " ") for name in names)]
    # Every cell wraps.
    return html_table(
        headers, rows, left=len(headers), label="Time, memory and disk of each notebook", stacked=True
    )
