"""Weights from measured influence: what helps the targets counts more.

The weight of an example is ``exp(strength · z)``, with ``z`` its standardised score within its domain, held
to ±3 so that one outlier does not take the whole weight; weights have mean one in each domain, so that the
mixture of domains stays. Scores of several targets are standardised each and averaged.

Scores must come from targets that share no problem with the test: otherwise the weights leak it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from infra_lib.errors import NumericalError, ParameterError
from infra_lib.examples import Example
from infra_lib.reweight.arms import Arm

GUIDED = "influence"
"""Name of the arm."""

LIMIT = 3.0
"""Largest standardised score that counts, in standard deviations."""


def guided_arm(
    train: Sequence[Example], scores: Mapping[str, Mapping[str, float]], *, strength: float = 0.5
) -> Arm:
    """Weigh every example by its influence on the targets; none leaves and none is added.

    Parameters
    ----------
    train
        Training examples.
    scores
        Target name to the score of each example's id; positive raises the target. Units do not matter.
    strength
        Logarithm of the weights' ratio between two examples that are one standard deviation apart;
        negative favours what harms, 0 gives equal weights. Our choice: the paper has no such arm.

    Raises
    ------
    ParameterError
        For no target, a strength that is not finite, or an example without a score.
    NumericalError
        For scores of a domain that are not finite.
    """
    if not np.isfinite(strength):
        raise ParameterError("strength", strength, "a finite number, such as 0.5")
    if not scores:
        raise ParameterError("scores", "no target", "the scores of at least one target")
    rows: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(train):
        rows[example.domain].append(index)
    standard = np.zeros(len(train))
    for target, given in scores.items():
        if absent := [example.id for example in train if example.id not in given]:
            raise ParameterError(
                "scores", f"target {target}: none for {absent[0]!r}", "a score for every training example"
            )
        values = np.array([float(given[example.id]) for example in train])
        if not np.isfinite(values).all():
            first = train[int(np.flatnonzero(~np.isfinite(values))[0])].id
            raise NumericalError(f"the score of {first!r} for target {target} is not finite")
        for indices in rows.values():
            standard[indices] += _standardise(values[indices]) / len(scores)
    weights = np.exp(strength * np.clip(standard, -LIMIT, LIMIT))
    for indices in rows.values():
        weights[indices] /= weights[indices].mean()
    return Arm(GUIDED, tuple(train), tuple(weights.tolist()), replaced=0)


def _standardise(values: np.ndarray) -> np.ndarray:
    """Return standard scores; zeros where all values are the same."""
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
