"""Intervals cover what they say, and paired tests see a difference when there is one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from infra_lib.errors import ParameterError
from infra_lib.statistics import (
    crossed_bootstrap,
    mean_interval,
    paired_difference,
    runs_by_problems,
    sign_flip,
)


def simulated(rng: np.random.Generator, runs: int = 6, problems: int = 80) -> np.ndarray:
    """Correctness with a run effect and a problem effect around a true mean of one half."""
    logits = rng.normal(0, 0.3, (runs, 1)) + rng.normal(0, 1.5, (1, problems))
    return (rng.random((runs, problems)) < 1 / (1 + np.exp(-logits))).astype(float)


def test_interval_covers_the_true_mean_at_least_nearly_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        interval, _ = crossed_bootstrap(simulated(rng), samples=300, seed=trial)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.90 <= hits / 200 <= 1.0


def test_crossed_interval_is_wider_than_one_that_ignores_training_noise() -> None:
    table = np.repeat([[0.2], [0.8]], 50, axis=1) + np.linspace(-0.1, 0.1, 50)
    crossed, _ = crossed_bootstrap(table)
    problems_only, _ = crossed_bootstrap(table.mean(axis=0, keepdims=True))
    assert crossed.high - crossed.low > 3 * (problems_only.high - problems_only.low)


def test_same_seed_same_interval() -> None:
    table = simulated(np.random.default_rng(1))
    assert crossed_bootstrap(table, seed=3)[0] == crossed_bootstrap(table, seed=3)[0]


def test_pairing_sees_a_small_difference_that_unpaired_intervals_would_hide() -> None:
    rng = np.random.default_rng(2)
    base = simulated(rng, problems=300)
    better = base.copy()
    better[:, :30] = 1.0
    result = paired_difference(better, base)
    assert result["low"] > 0
    assert result["p_value"] < 0.05
    assert result["p_problems"] < 0.05
    apart = [crossed_bootstrap(table)[0] for table in (better, base)]
    assert apart[0].low < apart[1].high


def test_difference_changes_sign_with_the_order_of_the_arms() -> None:
    rng = np.random.default_rng(3)
    a, b = simulated(rng), simulated(rng)
    ab, ba = paired_difference(a, b), paired_difference(b, a)
    assert ab["difference"] == pytest.approx(-ba["difference"])
    assert ab["low"] == pytest.approx(-ba["high"], abs=1e-12)


def test_no_difference_is_no_evidence() -> None:
    table = simulated(np.random.default_rng(4))
    result = paired_difference(table, table)
    assert (result["difference"], result["p_value"], result["p_problems"]) == (0.0, 1.0, 1.0)


def test_sign_flip_over_six_runs_reaches_its_floor_and_not_below() -> None:
    assert sign_flip(np.full(6, 0.1)) == pytest.approx(2 / 2**6)


def test_rejection_rate_of_the_paired_test_under_the_null_is_near_its_level() -> None:
    rng = np.random.default_rng(5)
    rejected = 0
    for trial in range(150):
        problem = rng.normal(0, 1, (1, 60))
        draw = [1.0 * (rng.random((5, 60)) < 1 / (1 + np.exp(-problem))) for _ in range(2)]
        rejected += paired_difference(*draw, samples=200, seed=trial)["p_value"] < 0.05
    assert rejected / 150 <= 0.08


@pytest.mark.reliability(kind="bad input", title="paired tests with an answer missing")
def test_tables_with_a_missing_answer_are_refused_by_name() -> None:
    frame = pd.DataFrame({"seed": [0, 0, 1], "id": ["a", "b", "a"], "correct": [True, False, True]})
    with pytest.raises(ParameterError, match="no answer to b"):
        runs_by_problems(frame, run=["seed"])


@pytest.mark.reliability(kind="bad input", title="statistics of tables that are none")
def test_bad_tables_are_refused() -> None:
    with pytest.raises(ParameterError):
        crossed_bootstrap(np.array([[1.0, np.nan]]))
    with pytest.raises(ParameterError):
        paired_difference(np.ones((2, 3)), np.ones((3, 2)))


def test_mean_interval_counts_its_values() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.problems == 3
    assert interval.mean == pytest.approx(2.0)
    assert interval.low < 2.0 < interval.high
