"""The two readings of a token's influence, beside each other, and what they must agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from infra_lib.curvature import out_by_in
from infra_lib.errors import ParameterError
from infra_lib.examples import Example
from infra_lib.influence import Direction, example_scores, response_positions
from infra_lib.models import Encoded

TokenScores = Mapping[str, Sequence[np.ndarray]]
"""Target name to one array of scores per example."""


def readings_table(
    train: Sequence[Example], encoded: Sequence[Encoded], loss: TokenScores, position: TokenScores
) -> pd.DataFrame:
    """Return both readings of every response token as a tidy table.

    Parameters
    ----------
    loss, position
        From :func:`infra_lib.influence.token_scores` and :func:`infra_lib.influence.position_scores`.

    Returns
    -------
    pandas.DataFrame
        target, id, index, text (the token's characters in the response, empty for the end token), loss,
        position; both in nats of the target per unit of the example's weight.
    """
    parts = []
    for target, rows in loss.items():
        for example, row, terms, positions in zip(train, encoded, rows, position[target], strict=True):
            parts.append(
                pd.DataFrame(
                    {
                        "target": target,
                        "id": example.id,
                        "index": range(row.n_tokens),
                        "text": [example.response[a:b] for a, b in row.offsets],
                        "loss": terms.astype(np.float64),
                        "position": response_positions(row, positions)[1].astype(np.float64),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def readings_agreement(frame: pd.DataFrame, loss: TokenScores, position: TokenScores) -> pd.DataFrame:
    """Return how far the two readings agree, token by token and in their sums, per target.

    Parameters
    ----------
    frame
        As :func:`readings_table` gives it.

    Returns
    -------
    pandas.DataFrame
        target, pearson and spearman (over tokens), tokens, examples, sums_differ_by (largest difference
        of an example's two sums, over the largest sum).
    """
    sums = example_scores(loss), example_scores(position)
    rows = []
    for target, part in frame.groupby("target", sort=False):
        pair = part[["loss", "position"]]
        first, second = sums[0][str(target)], sums[1][str(target)]
        rows.append(
            {
                "target": target,
                "pearson": pair.corr("pearson").iloc[0, 1],
                "spearman": pair.corr("spearman").iloc[0, 1],
                "tokens": len(part),
                "examples": part["id"].nunique(),
                "sums_differ_by": float(np.abs(first - second).max() / np.abs(first).max()),
            }
        )
    return pd.DataFrame(rows)


def most_helpful(encoded: Sequence[Encoded], scores: np.ndarray, *, low: int = 20, high: int = 160) -> int:
    """Return the row of the highest score among examples whose response has ``low`` to ``high`` tokens.

    Where no response is of that length, all count.
    """
    if len(encoded) == 0:
        raise ParameterError("encoded", 0, "at least one example")
    fits = [k for k, row in enumerate(encoded) if low <= row.n_tokens <= high] or list(range(len(encoded)))
    return max(fits, key=lambda k: float(scores[k]))


def backward_scores(model: Any, row: Encoded, directions: Mapping[str, Direction]) -> dict[str, np.ndarray]:
    """Return an example's loss-term scores by one backward pass per token: slow, and made differently.

    It is what :func:`infra_lib.influence.token_scores` must equal, [loss-carrying tokens] per target.
    """
    names = list(next(iter(directions.values())))
    modules = dict(model.named_modules())
    weights = [modules[name].weight for name in names]
    frozen = [weight.requires_grad for weight in weights]
    found: dict[str, list[float]] = {target: [] for target in directions}
    try:
        for weight in weights:
            weight.requires_grad_(True)
        logits = model(row.input_ids[None].to(model.device), use_cache=False).logits[0]
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        for t in row.loss_mask.nonzero()[:, 0].tolist():
            term = log_probs[t - 1, int(row.input_ids[t])]
            gradients = torch.autograd.grad(term, weights, retain_graph=True)
            for target, direction in directions.items():
                found[target].append(_inner(modules, names, gradients, direction))
    finally:
        for weight, before in zip(weights, frozen, strict=True):
            weight.requires_grad_(before)
    return {target: np.array(values) for target, values in found.items()}


def _inner(
    modules: Mapping[str, Any], names: Sequence[str], gradients: Sequence[torch.Tensor], direction: Direction
) -> float:
    parts = [
        (out_by_in(modules[n], g).double() * direction[n].double()).sum()
        for n, g in zip(names, gradients, strict=True)
    ]
    return float(torch.stack(parts).sum())


def largest_difference(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> float:
    """Return the largest difference between two sets of scores, over the largest score of its target."""
    return max(float(np.abs(first[t] - second[t]).max() / np.abs(second[t]).max()) for t in second)
