"""What bounds a score: the validation of a study again, with one thing changed at a time.

Each variation trains on random halves anew where training changes, and scores anew. Variations have as few
retrainings as will do, and the same number each, so they are compared with each other and not with the
study's own validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from infra_lib.checksums import check_record
from infra_lib.experiment import run_all
from infra_lib.files import read_sealed
from infra_lib.frames import rows as each_row
from infra_lib.markup import escape
from infra_lib.reading import load_table
from infra_lib.study import VALIDATION_METHODS, Study, make_study
from infra_lib.study_data import load_splits
from infra_lib.tables import badge, html_table, interval
from infra_lib.validation import bench, judge, report
from infra_lib.validation.figures import METHOD_NAMES

COMPARED = ("ekfac", "graddot", "gradcos")
"""Methods that are judged in every variation."""

VARIATIONS: Mapping[str, Mapping[str, Any]] = {
    "as in the study": {},
    "one pass of training": {"validation_epochs": 1},
    "attention's weights seen too": {"validation_layers": "all"},
}
"""What is changed, by name. The optimiser is not among it: fine-tuning has one, AdamW."""

FEWER: Mapping[str, Any] = {
    "validation_subsets": 48,
    "validation_seeds": 1,
    "validation_models": 2,
    "ceiling_subsets": 0,
    "removal_methods": [],
    "group_seeds": 1,
    "bootstrap_samples": 2000,
    "validation_without": [method for method in VALIDATION_METHODS if method not in COMPARED],
}
"""What all variations have in common, besides the study."""

RECORD = Path("records/bounds/bounds.parquet")

AGAINST = f"{METHOD_NAMES['ekfac']} − {METHOD_NAMES['graddot']}"


def measure_bounds(
    study: Study,
    root: Path,
    runs: Path,
    *,
    variations: Mapping[str, Mapping[str, Any]] = VARIATIONS,
    fewer: Mapping[str, Any] = FEWER,
) -> pd.DataFrame:
    """Return the LDS of the compared methods in each variation of a study's validation.

    Parameters
    ----------
    root, runs
        The project's folder, and that of training runs; retrainings that are there are not done again.
    fewer
        Parameters of all variations, in place of the study's.

    Returns
    -------
    pandas.DataFrame
        variation, parameter, method, unit (target, response), lds, low, high, subsets, seeds: held out, the
        mean over targets; and difference, difference_low, difference_high (EK-FAC minus the method, paired).
    """
    splits = load_splits(study, root, progress=False).splits
    found = []
    for name, change in variations.items():
        params = make_study({**study.model_dump(), **fewer, **change})
        setting = bench.open_bench(params, splits["train"], splits["target"], root=root, runs=runs)
        targets = bench.form_targets(setting, run_all(setting.runs, processes=params.processes))
        measured = judge.retrain(params, setting, targets, label=name)
        _, tables = judge.score_and_compare(params, setting, targets, measured, folder=runs / "scores")
        held = tables["lds"].query("selection == 'held out'")
        apart = tables["differences"].query("reference == 'ekfac'")
        of = ["method", "unit", "target"]
        apart = apart[[*of, "difference", "low", "high"]]
        both = held.merge(apart, on=of, how="left", suffixes=("", "_apart"))
        both = both.rename(columns={"low_apart": "difference_low", "high_apart": "difference_high"})
        both.insert(0, "parameter", ", ".join(f"{key}: {value}" for key, value in change.items()))
        both.insert(0, "variation", name)
        found.append(both[both["target"] == report.MEAN])
    columns = ["variation", "parameter", "method", "unit", "lds", "low", "high", "subsets", "seeds"]
    columns += ["difference", "difference_low", "difference_high"]
    return pd.concat(found, ignore_index=True)[columns]


def bounds_table(frame: pd.DataFrame) -> str:
    """Return a row for each variation: EK-FAC's LDS in both units, and how far it is from gradient dot."""
    cells = {(row.variation, row.method, row.unit): row for row in each_row(frame)}
    rows = []
    for name, parameter in dict.fromkeys(zip(frame["variation"], frame["parameter"], strict=True)):
        shown = [escape(name) + (f"<br><code>{escape(parameter)}</code>" if parameter else "")]
        for unit in ("response", "target"):
            ours, dot = (cells[name, method, unit] for method in ("ekfac", "graddot"))
            shown += [
                interval(ours.lds, ours.low, ours.high, digits=2),
                interval(dot.difference, dot.difference_low, dot.difference_high, digits=2, signed=True),
            ]
        rows.append(shown)
    heads = ["what is changed", "single responses: EK-FAC", AGAINST, "mean of all: EK-FAC", AGAINST]
    table = html_table(heads, rows, left=1, label="What bounds the LDS", stacked=True)
    alone = frame[(frame["method"] == "ekfac") & (frame["unit"] == "response")]
    best = next(each_row(alone.sort_values("lds", ascending=False, kind="stable")))
    first = next(each_row(alone))
    return (
        f"{table}<p>Highest for single responses: <strong>{escape(best.variation)}</strong>, {best.lds:.2f}; "
        f"{escape(first.variation)}, {first.lds:.2f}. Each rests on {first.subsets} halves with "
        f"{first.seeds} retraining(s) each.</p>\n"
    )


def bounds_fragment(root: Path) -> str:
    """Return the recorded variations with their badge, or that there is no record."""
    path = root / RECORD
    if not path.is_file():
        return f"not available: there is no record <code>{escape(str(RECORD))}</code> here"
    about = path.with_name("provenance.json")
    for file in (path, about):
        check_record(root, file)
    record = read_sealed(about)
    made = record["environment"]
    where = f"commit {made['commit'][:12]}; {made['device']}; {record['seconds'] / 60:.0f} minutes"
    shown = f"{badge('recorded', where)} study <code>{escape(record['study'])}</code>, {escape(where)}."
    return f"{shown}\n\n{bounds_table(load_table(path))}"
