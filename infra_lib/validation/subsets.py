"""Which examples a retraining sees: random halves, and the training set without a method's extremes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from infra_lib.errors import ParameterError

ENDS = ("top", "bottom")
"""Ends of a ranking: the examples that help most, and those that help least or harm."""


def half_subsets(
    ids: Sequence[str], count: int, *, seed: int = 0, strata: Sequence[object] | None = None
) -> np.ndarray:
    """Draw random halves of a set of examples, without replacement within each.

    Parameters
    ----------
    ids
        Of the examples, all different. The draw depends on (seed, ids) and not on their order.
    count
        Subsets; the first ones stay the same when more are drawn.
    strata
        A group for each example; each group is halved then (to within one example), so that no subset
        has more of one group. None halves the set as a whole.

    Returns
    -------
    numpy.ndarray
        bool [subsets, examples], in the order of ``ids``; half of the examples (rounded down) in each row.

    Raises
    ------
    ParameterError
        For fewer than two examples, repeated ids, or no subset.
    """
    if count < 1:
        raise ParameterError("validation_subsets", count, "1 or more")
    if len(ids) < 2 or len(set(ids)) != len(ids):
        raise ParameterError("ids", len(ids), "two or more, all different")
    order = np.argsort(np.array(ids))
    groups = np.unique(
        [str(group) for group in strata] if strata is not None else [""] * len(ids), return_inverse=True
    )[1][order]
    rows = np.zeros((count, len(ids)), dtype=bool)
    for row in range(count):
        # A generator for each subset: more subsets leave the first ones as they are.
        shuffled = np.random.default_rng([seed, row]).permutation(len(ids))
        dealt = shuffled[np.argsort(groups[shuffled], kind="stable")]
        # Every second one of the shuffled groups, beginning with the second where the number is odd.
        rows[row, order[dealt[1::2]]] = True
    return rows


def extremes(scores: np.ndarray, ids: Sequence[str], count: int, end: str) -> np.ndarray:
    """Return which examples stand at one end of a ranking, bool [examples]; ties are broken by id.

    Parameters
    ----------
    scores
        [examples], higher is more helpful.
    count
        Examples to take.
    end
        ``top`` or ``bottom``.

    Raises
    ------
    ParameterError
        For an unknown end, a count that leaves nothing to train on, or scores that are not finite.
    """
    if end not in ENDS:
        raise ParameterError("end", end, f"one of {', '.join(ENDS)}")
    if not 0 < count < len(scores):
        raise ParameterError("removal", count, f"from 1 to {len(scores) - 1} examples")
    if not np.isfinite(scores).all():
        raise ParameterError("scores", "not finite", "finite numbers")
    signed = -scores if end == "top" else scores
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.lexsort((np.array(ids), signed))[:count]] = True
    return chosen


def chance_removal(ids: Sequence[str], count: int, *, seed: int) -> np.ndarray:
    """Return ``count`` examples drawn at random, bool [examples]; the draw depends on (seed, ids) alone."""
    order = np.argsort(np.array(ids))
    keys = np.empty(len(ids))
    keys[order] = np.random.default_rng([seed, 7]).random(len(ids))
    return extremes(keys, ids, count, "top")


def spread_choice(ids: Sequence[str], strata: Sequence[object], size: int, *, seed: int = 0) -> list[int]:
    """Choose examples at random, about as many of each group; return their rows, in order.

    Groups take turns; one that is used up is passed over. The choice depends on (seed, ids) and not on
    the order of the examples, and a smaller one is part of a larger one.
    """
    order = np.argsort(np.array(ids))
    shuffled = order[np.random.default_rng([seed, 11]).permutation(len(ids))]
    groups = np.array([str(group) for group in strata])[shuffled]
    turn = np.empty(len(ids), dtype=np.int64)  # how many of its group come before each
    for group in np.unique(groups):
        turn[groups == group] = np.arange((groups == group).sum())
    taken = shuffled[np.lexsort((groups, turn))[:size]]
    return sorted(int(row) for row in taken)
