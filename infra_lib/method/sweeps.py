"""The same examples scored by many directions at once: a damping sweep, and methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infra_lib.curvature import METHODS, Factors, layer_groups
from infra_lib.device import read_back
from infra_lib.errors import NumericalError, ParameterError
from infra_lib.example_gradients import example_gradients
from infra_lib.examples import Example
from infra_lib.influence import Direction, precondition_all
from infra_lib.models import Batch, Encoded, batches

Key = tuple[str, float, str]
"""Method, damping, target."""


def scores_along(
    model: Any,
    encoded: Sequence[Encoded],
    directions: Mapping[Key, Direction],
    *,
    pad_id: int = 0,
    batch_tokens: int = 4096,
) -> tuple[dict[Key, np.ndarray], np.ndarray]:
    """Return ⟨V, g_i⟩ of every example along many directions, and every example's ‖g_i‖.

    Each example's gradient is formed once, layer by layer, and contracted with all directions, so the
    number of directions hardly matters. That takes memory for a batch's per-example gradients of one
    layer: a means for sweeps on small models, where :func:`infra_lib.influence.token_scores` is one for
    any size.

    Returns
    -------
    tuple
        Scores [examples] per direction, and norms [examples].
    """
    keys = list(directions)
    names = list(next(iter(directions.values())))
    modules = dict(model.named_modules())
    chosen = {name: modules[name] for name in names}
    stacked = {n: torch.stack([directions[k][n].flatten() for k in keys]) for n in names}  # [keys, out·in]
    scores, squared = np.zeros((len(keys), len(encoded))), np.zeros(len(encoded))

    def derive(batch: Batch) -> Tensor:
        """Return the scores of a batch, and under them squared norms [directions + 1, rows]."""
        found = torch.zeros(len(keys) + 1, len(batch.rows), dtype=torch.float64, device=model.device)
        for name, grads_boi in example_gradients(model, chosen, batch):
            grads_bg = grads_boi.flatten(1)
            found[:-1] += (stacked[name].to(grads_bg) @ grads_bg.T).double()
            found[-1] += grads_bg.square().sum(1).double()
        return found

    groups = batches(encoded, batch_tokens=batch_tokens, pad_id=pad_id)
    for found, batch in read_back((derive(batch.to(model.device)), batch) for batch in groups):
        rows = list(batch.rows)
        scores[:, rows], squared[rows] = found[:-1], found[-1]
    if not (np.isfinite(scores).all() and np.isfinite(squared).all()):
        raise NumericalError("a score of the sweep is not finite")
    return dict(zip(keys, scores, strict=True)), np.sqrt(squared)


def directions_of_target(swept: int, refined: int) -> int:
    """Return the directions of one target in a sweep: of so many dampings, and so many refined ones."""
    return 1 + (len(METHODS) - 1) * swept + refined


def sweep(
    model: Any,
    train: Sequence[Example],
    encoded: Sequence[Encoded],
    factors: Factors,
    gradients: Mapping[str, Direction],
    *,
    damping: float,
    dampings: Sequence[float],
    refined: Mapping[str, Mapping[float, Mapping[str, Direction]]] | None = None,
    pad_id: int = 0,
    batch_tokens: int = 4096,
    memory_bytes: int = 2 * 2**30,
) -> pd.DataFrame:
    """Score examples by each method of the family at each damping, and by the methods without one.

    A score is a sum over layers. They are taken in groups, each in passes of its own, so that the many
    directions of a group fit ``memory_bytes``; a single layer's may take more.

    Parameters
    ----------
    gradients
        Target name to ∇f.
    damping
        The default, at which methods are compared; it is added to ``dampings`` where it is missing.
    refined
        What refined directions are called as a method, to damping, to directions by target's name; these
        dampings are swept too.

    Returns
    -------
    pandas.DataFrame
        method (of the family, of ``refined``, ``gradcos``), damping, target, id, score. ``identity`` is the
        dot product of gradients; no damping changes its ranks, and it stands once, at the default.
    """
    if not dampings:
        raise ParameterError("dampings", list(dampings), "a non-empty list")
    refined = refined or {}
    swept = sorted({damping, *dampings, *(value for finer in refined.values() for value in finer)})
    scores: dict[Key, np.ndarray] = {}
    squared = np.zeros(len(encoded))
    number = len(gradients) * directions_of_target(len(swept), sum(map(len, refined.values())))
    # Each is held twice: by itself, and in the stack that scores are taken along.
    needs = {n: 2 * number * 4 * part.numel() for n, part in next(iter(gradients.values())).items()}
    for names in layer_groups(needs, memory_bytes):
        own = {t: {n: gradient[n] for n in names} for t, gradient in gradients.items()}
        directions: dict[Key, Direction] = {}
        for method in METHODS:
            for value in [damping] if method == "identity" else swept:
                found = precondition_all(factors, own, damping=value, method=method)
                directions |= {(method, value, target): part for target, part in found.items()}
        for method, by_damping in refined.items():
            for value, finer in by_damping.items():
                for target in gradients:
                    directions[method, value, target] = {n: finer[target][n] for n in names}
        parts, norms = scores_along(model, encoded, directions, pad_id=pad_id, batch_tokens=batch_tokens)
        scores = {key: part + scores.get(key, 0.0) for key, part in parts.items()}
        squared += norms**2
    norms = np.sqrt(squared)
    for target in gradients:
        # A positive factor per target is left out: the norm of ∇f changes no rank.
        plain = scores["identity", damping, target]
        scores["gradcos", damping, target] = np.divide(
            plain, norms, out=np.zeros_like(plain), where=norms > 0
        )
    ids = [example.id for example in train]
    return pd.concat(
        [
            pd.DataFrame({"method": m, "damping": d, "target": t, "id": ids, "score": values})
            for (m, d, t), values in scores.items()
        ],
        ignore_index=True,
    )


def damping_agreement(scores: pd.DataFrame, damping: float) -> pd.DataFrame:
    """Return Spearman's correlation of scores with the same method's at the default damping.

    Parameters
    ----------
    scores
        As :func:`sweep` gives it.

    Returns
    -------
    pandas.DataFrame
        target, method, damping, spearman, n (examples), for methods that were swept.
    """
    rows = []
    for (target, method), part in scores.groupby(["target", "method"], sort=False):
        wide = part.pivot(index="id", columns="damping", values="score")
        if len(wide.columns) < 2:
            continue
        ranks = wide.rank().corr()[damping]
        rows += [
            {"target": target, "method": method, "damping": float(d), "spearman": float(r), "n": len(wide)}
            for d, r in ranks.items()
        ]
    return pd.DataFrame(rows)


def method_agreement(scores: pd.DataFrame, damping: float) -> pd.DataFrame:
    """Return Spearman's correlation between each pair of methods at one damping, per target.

    Returns
    -------
    pandas.DataFrame
        target, first, second, spearman, n (examples); both orders of a pair, and each with itself.
    """
    rows = []
    chosen = scores[scores["damping"] == damping]
    for target, part in chosen.groupby("target", sort=False):
        wide = part.pivot(index="id", columns="method", values="score")
        ranks = wide.rank().corr()
        rows += [
            {"target": target, "first": a, "second": b, "spearman": float(ranks.loc[a, b]), "n": len(wide)}
            for a in wide.columns
            for b in wide.columns
        ]
    return pd.DataFrame(rows)


def agreement_words(between: pd.DataFrame) -> str:
    """Return the agreement of EK-FAC with each other method in words."""
    rows = between[(between["first"] == "ekfac") & (between["second"] != "ekfac")]
    return "; ".join(
        f"EK-FAC and {r.second} on {r.target}: {r.spearman:.2f}" for r in rows.itertuples(index=False)
    )
