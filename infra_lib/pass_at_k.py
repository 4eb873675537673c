"""pass@k: the chance that at least one of k sampled answers to a problem is correct.

From n answers of which c are correct, the unbiased estimate for one problem is

    pass@k = 1 − C(n − c, k) / C(n, k),

the share of the k-subsets of the answers that hold a correct one (Chen et al. 2021, arXiv
2107.03374, equation 1). It is computed as the product 1 − Π_{i=n−c+1..n} (1 − k / i), which
overflows for no n. pass@1 is c / n. Over problems, the mean is taken, with a bootstrap
interval over problems: answers to one problem are no further sample of questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from infra_lib.errors import ParameterError
from infra_lib.statistics import mean_interval


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
    """Return pass@k per group with bootstrap intervals over problems.

    Parameters
    ----------
    answers
        Graded answers, one row each: ``id`` of the problem, ``correct``, and the columns in ``by``.
    ks
        Values of k, each at most the fewest answers that a problem has.
    by
        Columns that make the groups (``domain``, ``difficulty``, …).
    samples, confidence, seed
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        The columns of ``by``, then k, mean, low, high, n (problems), answers (fewest per problem).

    Raises
    ------
    ParameterError
        For a k larger than the answers to some problem, an empty table, or ungraded answers.
    """
    if answers.empty or not ks:
        raise ParameterError("answers", f"{len(answers)} rows, k = {list(ks)}", "graded, for some k")
    if missing := [name for name in ("id", "correct", *by) if name not in answers.columns]:
        raise ParameterError("answers", list(answers.columns), f"a table with the column {missing[0]}")
    if answers["correct"].isna().any():
        raise ParameterError("correct", None, "true or false for every answer")
    groups = answers.groupby(list(by), sort=True) if by else [((), answers)]
    rows = []
    for group, part in groups:
        counts = (
            part.assign(correct=part["correct"].astype(int)).groupby("id")["correct"].agg(["size", "sum"])
        )
        for k in ks:
            if k > counts["size"].min():
                scarce = counts["size"].idxmin()
                valid = f"at most {counts['size'].min()}, the answers to problem {scarce!r}"
                raise ParameterError("k", k, valid)
            values = [pass_at_k(int(n), int(c), k) for n, c in counts.itertuples(index=False)]
            interval = mean_interval(values, samples=samples, confidence=confidence, seed=seed)
            rows.append(
                dict(zip(by, group, strict=True))
                | {
                    "k": k,
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "n": interval.problems,
                    "answers": int(counts["size"].min()),
                }
            )
    return pd.DataFrame(rows)
