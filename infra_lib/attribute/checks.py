"""Guards: scores that mean nothing raise, and a sample is computed a second way.

``single_against_batch``
    A few examples are scored alone (for TRAK: differentiated); batches, padding and shards must not matter.
``against_float32``
    Below float32, a sample is scored again with the model in float32, along the same direction; and the
    target's gradient on a sample of its examples is compared too. The factors are not computed again.

A cosine c means that 1 − c² of the squared length of the scores is rounding. At :data:`WARN_BELOW` that
is a tenth, about where neighbours in a ranking begin to swap; at :data:`RAISE_BELOW` three quarters,
and the scores are refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from infra_lib.attribute.scorer import Scorer, TokenScores
from infra_lib.distributed import is_main
from infra_lib.errors import InfraWarning, NumericalError
from infra_lib.influence import Direction, example_scores
from infra_lib.models import Encoded

SAMPLE = 8
"""Examples that are scored again in float32."""

ALONE = 4
"""Examples that are scored alone, too."""

WARN_BELOW, RAISE_BELOW = 0.95, 0.5
"""Cosines to float32."""

SINGLE_TOLERANCE = 0.01
"""Largest allowed difference, alone against in a batch, relative to the largest score, in float32."""


def refuse_meaningless(scores: Mapping[str, np.ndarray]) -> None:
    """Raise for example scores that rank nothing.

    Parameters
    ----------
    scores
        Target name to scores [examples].

    Raises
    ------
    NumericalError
        Where they are not finite, all zero, or (with two examples or more) all equal.
    """
    for target, values in scores.items():
        if not np.isfinite(values).all():
            raise NumericalError(f"scores on {target} are not finite")
        if not np.any(values):
            raise NumericalError(f"all examples have the score 0 on {target}; nothing can be ranked")
        if len(values) > 1 and np.ptp(values) == 0:
            raise NumericalError(f"all examples have the same score on {target}; nothing can be ranked")


def single_against_batch(
    scorer: Scorer, encoded: Sequence[Encoded], totals: Mapping[str, np.ndarray], *, enforce: bool
) -> dict[str, float]:
    """Return, per target, how far a few examples scored alone lie from their scores in batches.

    Differences are relative to the target's largest score.

    Raises
    ------
    NumericalError
        Where one is above :data:`SINGLE_TOLERANCE` and ``enforce`` is set (in float32).
    """
    rows = sample(len(encoded), ALONE)
    alone = example_scores(scorer([encoded[row] for row in rows], batch_tokens=1))
    found = {
        target: float(np.abs(alone[target] - values[rows]).max() / np.abs(values).max())
        for target, values in totals.items()
    }
    for target, difference in found.items():
        if enforce:
            refuse_batch_dependence(difference, f"scores on {target}")
    return found


def refuse_batch_dependence(difference: float, what: str) -> None:
    """Raise where examples alone differ from the same examples in batches.

    Parameters
    ----------
    difference
        The largest, relative to the largest value.
    what
        What was computed twice, in the plural.

    Raises
    ------
    NumericalError
        Where it is above :data:`SINGLE_TOLERANCE`, or no number.
    """
    if not difference <= SINGLE_TOLERANCE:
        raise NumericalError(
            f"{what} depend on the batch: alone they differ by {difference:.1e} of the "
            f"largest (allowed: {SINGLE_TOLERANCE:g}); the model mixes up a batch's rows or its padding"
        )


def against_float32(
    scorer: Scorer,
    encoded: Sequence[Encoded],
    tokens: TokenScores,
    targets: Mapping[str, Sequence[Encoded]],
    gradient: Callable[[Sequence[Encoded]], Direction],
) -> dict[str, dict[str, float | None]]:
    """Compare scores with those of the model in float32, which it *becomes*: it is converted in place.

    Its weights stay those of the lower precision: compared is what computing in it does, not what rounding
    the weights did when they were loaded.

    Parameters
    ----------
    tokens
        What ``scorer`` gave for ``encoded``.
    targets
        Target name to its correct responses.
    gradient
        The target's gradient of some responses, with the model as it then is.

    Returns
    -------
    dict
        Target name to ``cosine`` and ``spearman`` of example scores, ``token_cosine`` of token scores,
        and ``gradient_cosine`` of the target's gradient, each on a sample.

    Raises
    ------
    NumericalError
        See :func:`judge`.
    """
    some = {
        target: [responses[row] for row in sample(len(responses), SAMPLE)]
        for target, responses in targets.items()
    }
    low = {target: gradient(responses) for target, responses in some.items()}
    model = scorer.model.float()
    rows = sample(len(encoded), SAMPLE)
    wide = replace(scorer, model=model)([encoded[row] for row in rows])
    found = {}
    for target, exact in wide.items():
        ours = [tokens[target][row] for row in rows]
        found[target] = {
            **compare(*(example_scores({target: part})[target] for part in (ours, exact))),
            "token_cosine": cosine(np.concatenate(ours), np.concatenate(exact)),
            "gradient_cosine": _direction_cosine(low[target], gradient(some[target])),
        }
    return found


def compare(ours: np.ndarray, exact: np.ndarray) -> dict[str, float | None]:
    """Return cosine and Spearman correlation (None where one side is constant) of two lists of scores."""
    varied = len(ours) > 1 and np.ptp(ours) > 0 and np.ptp(exact) > 0
    return {
        "cosine": cosine(ours, exact),
        "spearman": float(spearmanr(ours, exact).statistic) if varied else None,
    }


def judge(
    found: Mapping[str, Mapping[str, float | None]],
    dtype: str,
    *,
    with_tokens: bool,
    instead: str = "--dtype float32",
) -> list[str]:
    """Return what there is to warn of in a comparison with float32, having warned of it.

    Parameters
    ----------
    instead
        What to ask for where it is not good enough.
    with_tokens
        Sentence or token scores were asked for, so that their cosine counts as well.

    Raises
    ------
    NumericalError
        Where a cosine is below :data:`RAISE_BELOW`.
    """
    said = []
    counted = ("cosine", "gradient_cosine", "token_cosine") if with_tokens else ("cosine", "gradient_cosine")
    for target, numbers in found.items():
        for name in counted:
            value = numbers.get(name)
            if value is None or value >= WARN_BELOW:
                continue
            text = (
                f"in {dtype} the {name.replace('_', ' ')} to float32 on {target} is {value:.2f} on a sample; "
                f"use {instead}"
            )
            if value < RAISE_BELOW:
                raise NumericalError(text)
            said.append(text)
            if is_main():
                warnings.warn(text, InfraWarning, stacklevel=2)
    return said


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Return the cosine of two vectors, 0 where one is zero."""
    norms = float(np.linalg.norm(left.astype(np.float64)) * np.linalg.norm(right.astype(np.float64)))
    return float(left.astype(np.float64) @ right.astype(np.float64)) / norms if norms > 0 else 0.0


def _direction_cosine(left: Direction, right: Direction) -> float:
    def dot(one: Direction, other: Direction) -> float:
        return sum(float(torch.sum(one[name].double() * other[name].double())) for name in one)

    return dot(left, right) / np.sqrt(dot(left, left) * dot(right, right))


def sample(count: int, wanted: int) -> list[int]:
    """Return ``wanted`` rows out of ``count`` (all where there are fewer), evenly spaced."""
    return sorted({int(row) for row in np.linspace(0, count - 1, min(wanted, count))})


def worst(checks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the largest of each number that layers report about their factors."""
    names = next(iter(checks.values()), {})
    return {name: max(check[name] for check in checks.values()) for name in names}
