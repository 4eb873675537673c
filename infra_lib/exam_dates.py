"""Exams over time: accuracy by exam, difficulty and half-year, where problems carry the day of publication.

A model can have read a problem that was published before its training data end, and not one that was
published later; an accuracy that falls from one window to the next says that it may have. Half-years are our
choice: in a month too few problems of a level come together for an interval that says anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pandas as pd

from infra_lib.examples import Example
from infra_lib.statistics import accuracy_by_group
from infra_lib.study_data import exams_of

COLUMNS = ("exam", "difficulty", "window", "mean", "low", "high", "runs", "n")


def half_year(day: str) -> str:
    """Return the half-year of a day in ISO form, such as ``2024-01 to 2024-06`` (these sort by time)."""
    found = date.fromisoformat(day)
    first, last = ("01", "06") if found.month <= 6 else ("07", "12")
    return f"{found.year:04d}-{first} to {found.year:04d}-{last}"


def accuracy_by_window(
    answers: pd.DataFrame,
    problems: Sequence[Example],
    sources: Sequence[str],
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return accuracy by exam, difficulty and half-year of the problems that have a date.

    Parameters
    ----------
    answers
        Graded answers: columns base_seed, seed, id, difficulty, correct.
    problems, sources
        The exam, and the study's sources of it (``test_sources``).
    samples, confidence, seed
        Of the crossed bootstrap over runs and problems.

    Returns
    -------
    pandas.DataFrame
        exam, difficulty (Int64, missing where a problem has none), window, mean, low, high, runs, n
        (problems); without a row where no problem has a date.
    """
    windows = {problem.id: half_year(problem.date) for problem in problems if problem.date}
    dated = answers[answers["id"].isin(windows)]
    if dated.empty:
        return pd.DataFrame(columns=list(COLUMNS)).astype({"difficulty": "Int64"})
    named = dated.assign(exam=exams_of(dated["id"], sources), window=dated["id"].map(windows))
    return accuracy_by_group(
        named, ["exam", "difficulty", "window"], samples=samples, confidence=confidence, seed=seed
    )
