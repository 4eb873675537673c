"""Problems that carry a date are shown by half-year, and exams without dates not at all."""

from __future__ import annotations

import pandas as pd
import pytest

from infra_lib.exam_dates import COLUMNS, accuracy_by_window, half_year
from infra_lib.examples import Example
from infra_lib.tables import exams_by_window


@pytest.mark.parametrize(
    ("day", "window"),
    [
        ("2023-07-01", "2023-07 to 2023-12"),
        ("2023-12-31", "2023-07 to 2023-12"),
        ("2024-01-01", "2024-01 to 2024-06"),
        ("2024-06-30", "2024-01 to 2024-06"),
    ],
)
def test_a_half_year_holds_its_first_and_last_day(day: str, window: str) -> None:
    assert half_year(day) == window


PROBLEMS = [
    Example("livecodebench/a", "code", "p", "", 1, date="2024-03-02"),
    Example("livecodebench/b", "code", "p", "", 1, date="2024-05-02"),
    Example("livecodebench/c", "code", "p", "", 1, date="2024-08-02"),
    Example("livecodebench/d", "code", "p", "", 5, date="2024-08-02"),
    Example("own/e", "code", "p", "", None, date="2024-08-02"),
    Example("mbpp/1", "code", "p", "", None),
]
SOURCES = ["livecodebench", "mbpp", "own.jsonl"]


def graded() -> pd.DataFrame:
    rows = [
        {"id": problem.id, "seed": seed, "correct": problem.id.endswith(("a", "d")) or seed == 1}
        for problem in PROBLEMS
        for seed in (0, 1)
    ]
    levels = pd.array([problem.difficulty for problem in PROBLEMS for _ in (0, 1)], dtype="Int64")
    return pd.DataFrame(rows).assign(base_seed=0, difficulty=levels)


def test_each_dated_problem_counts_once_in_its_exam_level_and_window() -> None:
    table = accuracy_by_window(graded(), PROBLEMS, SOURCES, samples=200)
    assert list(table.columns) == list(COLUMNS)
    found = {(r.exam, r.window): (r.mean, r.runs, r.n) for r in table.itertuples() if r.difficulty is pd.NA}
    assert found == {("own.jsonl", "2024-07 to 2024-12"): (0.5, 2, 1)}
    known = table.dropna(subset="difficulty")[["difficulty", "window", "mean", "n"]].to_numpy().tolist()
    assert known == [
        [1, "2024-01 to 2024-06", 0.75, 2],
        [1, "2024-07 to 2024-12", 0.5, 1],
        [5, "2024-07 to 2024-12", 1.0, 1],
    ]
    assert (table["low"] <= table["mean"]).all()
    assert (table["mean"] <= table["high"]).all()
    shown = exams_by_window(table)
    assert shown.count("<tr") == len(table) + 1
    assert ">none<" in shown


def test_without_dates_there_is_no_row() -> None:
    table = accuracy_by_window(graded(), [Example("mbpp/1", "code", "p", "")], SOURCES)
    assert table.empty
    assert "<table" not in exams_by_window(table)
    assert list(table.columns) == list(COLUMNS)
