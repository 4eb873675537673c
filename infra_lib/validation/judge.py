"""The steps from trained models to judged scores, as the validation and its variations take them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from infra_lib.validation import bench, report, retraining, scores


def retrain(params: Any, setting: bench.Bench, targets: bench.Targets, *, label: str) -> report.Measured:
    """Train on every random half, as far as that is not done, and return what it did to the targets."""
    jobs = targets.jobs(setting.membership, setting.seeds)
    print(f"{len(jobs)} retrainings on {setting.membership[0].sum()} of {len(setting.train)} examples each")
    results = retraining.run_all(jobs, processes=params.processes, label=label)
    return report.Measured(targets, setting.seeds, results)


def score_and_compare(
    params: Any, setting: bench.Bench, targets: bench.Targets, measured: report.Measured, *, folder: Path
) -> tuple[list[scores.ModelScores], Mapping[str, pd.DataFrame]]:
    """Score by every method under every model, and hold the scores against the retrainings.

    Parameters
    ----------
    folder
        Where factors wait, so that an interrupted run goes on.

    Returns
    -------
    tuple
        Each model's scores, and the tables of :func:`infra_lib.validation.report.both_units`.
    """
    scored = scores.score_models(
        [run.folder for run in setting.runs],
        setting.train,
        targets.columns(params.validation_tokens),
        bench.method_settings(params, folder=folder),
        processes=params.processes,
    )
    found = report.both_units(
        targets,
        measured,
        scored,
        tokens=params.validation_tokens,
        samples=params.bootstrap_samples,
        confidence=params.confidence,
        seed=params.seed,
    )
    return scored, found
