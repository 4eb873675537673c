"""What the explorer's scores must agree on: sums, and earlier scores; and how far the methods rank alike."""

from __future__ import annotations

import numpy as np
import pandas as pd

from infra_lib.explorer.tables import COLUMNS, READINGS


def sums(examples: pd.DataFrame, sentences: pd.DataFrame, tokens: pd.DataFrame) -> pd.DataFrame:
    """Return how far the sums of sentences and of tokens are from the scores of their examples.

    Returns
    -------
    pandas.DataFrame
        method, target, level, reading, largest_difference (over the pair's largest score).
    """
    rows = []
    for pair, part in examples.groupby(COLUMNS, sort=False):
        scores = part.set_index("id")["score"]
        for level, frame in (("sentence", sentences), ("token", tokens)):
            own = frame[(frame["method"] == pair[0]) & (frame["target"] == pair[1])]
            added = own.groupby("id", observed=True)[list(READINGS)].sum()
            for reading in READINGS:
                apart = (added[reading].reindex(scores.index) - scores).abs().max() / scores.abs().max()
                rows.append([*pair, level, reading, float(apart)])
    return pd.DataFrame(rows, columns=[*COLUMNS, "level", "reading", "largest_difference"])


def with_earlier(examples: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """Return the largest difference to earlier EK-FAC scores, over the largest score, per target.

    Parameters
    ----------
    earlier
        id, target, score.

    Returns
    -------
    pandas.DataFrame
        target, examples, largest_difference; without rows where EK-FAC is not among the methods.
    """
    now = examples[examples["method"] == "ekfac"]
    both = now.merge(earlier[["id", "target", "score"]], on=["id", "target"], suffixes=("", "_earlier"))
    rows = [
        {
            "target": target,
            "examples": len(part),
            "largest_difference": float(
                np.abs(part["score"] - part["score_earlier"]).max() / np.abs(part["score_earlier"]).max()
            ),
        }
        for target, part in both.groupby("target", sort=False)
    ]
    return pd.DataFrame(rows, columns=["target", "examples", "largest_difference"])


def between_methods(examples: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's correlation of each two methods' scores: target, method, other, spearman."""
    rows = []
    for target, part in examples.groupby("target", sort=False):
        wide = part.pivot(index="id", columns="method", values="score")
        ranked = wide.corr("spearman")
        rows += [
            [target, str(one), str(other), float(ranked.loc[one, other])]
            for one in ranked.index
            for other in ranked.columns
        ]
    return pd.DataFrame(rows, columns=["target", "method", "other", "spearman"])
