"""Intervals and paired tests for accuracies that share problems and training runs.

An accuracy here is a mean over a table *runs × problems*: each run (a base and a
fine-tuning seed) answers every problem. Both are samples, of training noise and of
questions, so both are resampled: the crossed ("pigeonhole") bootstrap of Owen (2007,
Annals of Applied Statistics 1(2)), which is slightly conservative. Arms that share runs
and problems are compared by the same bootstrap of their difference, and by an exact
or Monte-Carlo sign-flip test over runs and over problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from infra_lib.errors import ParameterError


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval.

    Attributes
    ----------
    mean, low, high
        Estimate and interval ends, in the units of the values.
    runs, problems
        How many of each the estimate rests on.
    """

    mean: float
    low: float
    high: float
    runs: int
    problems: int


def crossed_bootstrap(
    table: np.ndarray,
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    problem_stream: int = 0,
) -> tuple[Interval, np.ndarray]:
    """Return the mean of a table [runs, problems] with its crossed-bootstrap interval.

    Rows and columns are resampled independently with replacement. With one run only the
    problems are resampled, and the interval says nothing of training noise. Two tables with
    the same ``seed`` and number of runs see the same draws of runs; give them different
    ``problem_stream`` numbers where their problems are unrelated.

    Returns
    -------
    tuple
        The interval, and the bootstrap means, shape [samples].
    """
    table = np.asarray(table, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ParameterError("table", table.shape, "a finite, non-empty table of runs × problems")
    runs, problems = table.shape
    row_counts, column_counts = _crossed_draws(runs, problems, samples, seed, problem_stream)
    means = np.einsum("sr,rp,sp->s", row_counts, table, column_counts, optimize=True) / (runs * problems)
    low, high = percentile_interval(means, confidence)
    return Interval(float(table.mean()), low, high, runs, problems), means


def _crossed_draws(
    runs: int, problems: int, samples: int, seed: int, stream: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each draw takes each run [samples, runs] and each problem [samples, problems]."""
    run_rng, problem_rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1, stream])
    return (
        run_rng.multinomial(runs, np.full(runs, 1 / runs), size=samples),
        problem_rng.multinomial(problems, np.full(problems, 1 / problems), size=samples),
    )


def percentile_interval(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of resamples, those without a value left out; NaN where none has one."""
    tail = (1 - confidence) / 2
    kept = draws[~np.isnan(draws)]
    low, high = np.quantile(kept, [tail, 1 - tail]) if len(kept) else (np.nan, np.nan)
    return float(low), float(high)


def crossed_ratios(
    totals: np.ndarray, counts: np.ndarray, *, samples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return ratios of sums over runs and problems, with their crossed-bootstrap draws.

    The mean of pieces that come in groups (tokens in examples): totals of their values over their counts,
    both resampled by whole runs and whole problems, as in :func:`crossed_bootstrap`. All series see the
    same draws, so that differences between them are paired.

    Parameters
    ----------
    totals, counts
        Arrays [runs, series, problems].

    Returns
    -------
    tuple
        The ratios [series], and their draws [samples, series]; a draw without a single piece is NaN.
    """
    totals, counts = np.asarray(totals, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if totals.ndim != 3 or totals.shape != counts.shape or not totals.size or not np.isfinite(totals).all():
        raise ParameterError("totals", totals.shape, f"finite, and of the counts' shape {counts.shape}")
    runs, _, problems = totals.shape
    row_counts, column_counts = _crossed_draws(runs, problems, samples, seed)
    drawn = [
        np.einsum("sr,rkp,sp->sk", row_counts, values, column_counts, optimize=True)
        for values in (totals, counts)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals.sum((0, 2)) / counts.sum((0, 2)), np.where(drawn[1] > 0, drawn[0] / drawn[1], np.nan)


def paired_difference(
    first: np.ndarray, second: np.ndarray, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, float | int]:
    """Compare two arms that share runs and problems: ``first − second``.

    Parameters
    ----------
    first, second
        Tables [runs, problems] in the same order of runs and problems.

    Returns
    -------
    dict
        ``difference``, ``low``, ``high`` (crossed bootstrap), ``p_value`` (two-sided, from the same
        bootstrap, never below 1/(samples+1)), ``p_problems`` (sign-flip over problems, runs held fixed),
        ``p_runs`` (sign-flip over runs, problems held fixed; its floor is 2/2^runs), ``runs``, ``n``.
    """
    if first.shape != second.shape:
        raise ParameterError("second", second.shape, f"a table of the same shape as the first, {first.shape}")
    table = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    interval, means = crossed_bootstrap(table, samples=samples, confidence=confidence, seed=seed)
    below, above = (means <= 0).sum(), (means >= 0).sum()
    return {
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "p_value": float(min(1.0, 2 * (1 + min(below, above)) / (samples + 1))),
        "p_problems": sign_flip(table.mean(axis=0), samples=samples, seed=seed),
        "p_runs": sign_flip(table.mean(axis=1), samples=samples, seed=seed),
        "runs": interval.runs,
        "n": interval.problems,
    }


def sign_flip(differences: np.ndarray, *, samples: int = 9999, seed: int = 0) -> float:
    """Return the two-sided p-value of a sign-flip (paired permutation) test of mean zero."""
    if len(differences) < 2 or not np.any(differences):
        return 1.0
    result = stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=samples,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def runs_by_problems(frame: pd.DataFrame, *, run: Sequence[str], value: str = "correct") -> pd.DataFrame:
    """Pivot a long table of graded answers to runs × problems (column ``id``).

    Raises
    ------
    ParameterError
        Where a run did not answer every problem, since arms could not be paired then.
    """
    wide = frame.assign(**{value: frame[value].astype(float)}).pivot_table(
        index=list(run), columns="id", values=value, aggfunc="mean", sort=True
    )
    if wide.isna().any(axis=None):
        missing = wide.columns[wide.isna().any()][0]
        raise ParameterError("accuracy table", f"no answer to {missing} in some run", "complete")
    return wide


def mean_interval(
    values: Sequence[float] | np.ndarray, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean of independent values with its bootstrap interval."""
    interval, _ = crossed_bootstrap(
        np.asarray(values, dtype=np.float64)[None], samples=samples, confidence=confidence, seed=seed
    )
    return interval


def accuracy_by_group(
    answers: pd.DataFrame,
    by: Sequence[str],
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return accuracy per group with crossed-bootstrap intervals over runs and problems.

    Parameters
    ----------
    answers
        Columns base_seed, seed, id, correct and those named in ``by``; problems without a value of one (no
        difficulty, say) are a group of their own, the last.

    Returns
    -------
    pandas.DataFrame
        The columns of ``by``, mean, low, high, runs, n (problems).
    """
    rows = []
    for group, part in answers.groupby(list(by), sort=True, dropna=False):
        table = runs_by_problems(part, run=["base_seed", "seed"])
        interval, _ = crossed_bootstrap(table.to_numpy(), samples=samples, confidence=confidence, seed=seed)
        rows.append(
            dict(zip(by, group, strict=True))
            | {
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "runs": interval.runs,
                "n": interval.problems,
            }
        )
    # A group without a difficulty would make the column one of objects.
    frame = pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "runs", "n"])
    return frame.astype({name: answers[name].dtype for name in by})
