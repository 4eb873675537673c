"""pass@k: the chance that at least one of k sampled answers to a problem is correct.

From n answers of which c are correct, the unbiased estimate for one problem is

    pass@k = 1 − C(n − c, k) / C(n, k),

the share of the k-subsets of the answers that hold a correct one (Chen et al. 2021, arXiv
2107.03374, equation 1). It is computed as the product 1 − Π_{i=n−c+1..n} (1 − k / i), which
overflows for no n. pass@1 is c / n. Over problems, the mean is taken, with a bootstrap
interval over problems: answers to one problem are no further sample of questions. Where
several runs sat the exam, each run's answers are its own k tries, and the interval
resamples runs and problems together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from infra_lib.errors import ParameterError
from infra_lib.statistics import crossed_bootstrap, runs_by_problems

RUN = ("base_seed", "seed")
"""Columns that tell runs apart, where a table of answers has them."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased estimate of pass@k for one problem.

    Parameters
    ----------
    n, c
        Answers, and how many of them are correct.
    k
        Answers that one may give; at most n.

    Raises
    ------
    ParameterError
        For k outside 1 to n, or c outside 0 to n.
    """
    if not 0 <= c <= n:
        raise ParameterError("c", c, f"from 0 to the number of answers, {n}")
    if not 1 <= k <= n:
        raise ParameterError("k", k, f"from 1 to the number of answers per problem, {n}")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def pass_at_k_table(
    answers: pd.DataFrame,
    ks: Sequence[int] = (1,),
    *,
    by: Sequence[str] = (),
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return pass@k per group with bootstrap intervals over problems, and over runs where there are several.

    Parameters
    ----------
    answers
        Graded answers, one row each: ``id`` of the problem, ``correct``, and the columns in ``by``; with
        ``base_seed`` and ``seed`` where they come from several runs.
    ks
        Values of k, each at most the fewest answers that a run gave to a problem.
    by
        Columns that make the groups (``domain``, ``difficulty``, …).
    samples, confidence, seed
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        The columns of ``by``, then k, mean, low, high, runs, n (problems), answers (fewest per problem).

    Raises
    ------
    ParameterError
        For a k larger than the answers to some problem, an empty table, ungraded answers, or a run that did
        not answer every problem.
    """
    if answers.empty or not ks:
        raise ParameterError("answers", f"{len(answers)} rows, k = {list(ks)}", "graded, for some k")
    if missing := [name for name in ("id", "correct", *by) if name not in answers.columns]:
        raise ParameterError("answers", list(answers.columns), f"a table with the column {missing[0]}")
    if answers["correct"].isna().any():
        raise ParameterError("correct", None, "true or false for every answer")
    if not set(RUN) <= set(answers.columns):
        answers = answers.assign(**dict.fromkeys(RUN, 0))
    groups = answers.groupby(list(by), sort=True) if by else [((), answers)]
    rows = []
    for group, part in groups:
        graded = part.assign(correct=part["correct"].astype(int))
        counts = graded.groupby([*RUN, "id"])["correct"].agg(["size", "sum"]).reset_index()
        fewest = int(counts["size"].min())
        for k in ks:
            if k > fewest:
                scarce = counts["id"][counts["size"].idxmin()]
                raise ParameterError("k", k, f"at most {fewest}, the answers to problem {scarce!r}")
            chances = [
                pass_at_k(int(n), int(c), k) for n, c in zip(counts["size"], counts["sum"], strict=True)
            ]
            table = runs_by_problems(counts.assign(chance=chances), run=RUN, value="chance")
            interval, _ = crossed_bootstrap(
                table.to_numpy(), samples=samples, confidence=confidence, seed=seed
            )
            rows.append(
                dict(zip(by, group, strict=True))
                | {
                    "k": k,
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "runs": interval.runs,
                    "n": interval.problems,
                    "answers": fewest,
                }
            )
    return pd.DataFrame(rows)


def tries(answers: int) -> list[int]:
    """Return the k that a table shows for so many answers to a problem: powers of two, and all of them."""
    return sorted({2**i for i in range(answers.bit_length()) if 2**i <= answers} | {answers})
