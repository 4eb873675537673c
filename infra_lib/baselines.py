"""Simple scores that attribution must beat: gradient cosine and norms, loss, length, words, chance.

Each returns one array [examples] per target, higher meaning more helpful by that score's
own idea. None of them is an influence function.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from infra_lib.curvature import Factors, captured
from infra_lib.distributed import shard
from infra_lib.errors import NumericalError, ParameterError
from infra_lib.examples import Example
from infra_lib.models import Encoded, batches
from infra_lib.responses import token_log_probs


def gradient_norms(
    model: Any,
    encoded: Sequence[Encoded],
    names: Sequence[str],
    *,
    factors: Factors | None = None,
    damping: float = 0.1,
    method: str = "ekfac",
    pad_id: int = 0,
    batch_tokens: int = 4096,
) -> np.ndarray:
    """Return ‖g_i‖² of each example's log-likelihood gradient over the named layers, shape [examples].

    With ``factors`` it is the *self-influence* g_iᵀ (H + λ)⁻¹ g_i: how much up-weighting an example
    raises its own log-likelihood.

    Parameters
    ----------
    factors, damping, method
        Curvature of the same model, as in :func:`infra_lib.influence.precondition`; None for the plain norm.
    """
    modules = dict(model.named_modules())
    chosen = {name: modules[name] for name in names}
    part = shard(encoded)
    squared = np.zeros(len(part.rows))
    for batch in batches(part.take(encoded), batch_tokens=batch_tokens, pad_id=pad_id):
        batch = batch.to(model.device)
        with captured(model, chosen) as seen:
            token_log_probs(model, batch).sum().backward()
        real = batch.attention_mask.unsqueeze(-1)
        for name, (acts_bti, grads_bto) in seen.items():
            grads_boi = torch.einsum("bto,bti->boi", grads_bto.float() * real, acts_bti.float())
            if factors is None:
                values = grads_boi.square().sum((1, 2))
            else:
                values = _curved(grads_boi, factors, name, damping, method)
            squared[list(batch.rows)] += values.double().cpu().numpy()
    squared = part.gather_rows(squared)
    if not np.isfinite(squared).all():
        raise NumericalError("a gradient norm is not finite")
    return squared


def _curved(
    grads_boi: torch.Tensor, factors: Factors, name: str, damping: float, method: str
) -> torch.Tensor:
    layer = factors.layers[name]
    values = factors.eigenvalues(name, method).to(grads_boi)
    values = values + damping * values.mean()
    if method in ("ekfac", "kfac"):
        grads_boi = layer.q_out.to(grads_boi).T @ grads_boi @ layer.q_in.to(grads_boi)
    return (grads_boi.square() / values).sum((1, 2))


def losses(
    model: Any, encoded: Sequence[Encoded], *, pad_id: int = 0, batch_tokens: int = 4096
) -> np.ndarray:
    """Return each example's mean loss per response token in nats, shape [examples]."""
    part = shard(encoded)
    mine = part.take(encoded)
    found = np.zeros(len(mine))
    with torch.no_grad():
        for batch in batches(mine, batch_tokens=batch_tokens, pad_id=pad_id):
            total = -token_log_probs(model, batch.to(model.device)).sum(1).double().cpu().numpy()
            found[list(batch.rows)] = total / [mine[row].n_tokens for row in batch.rows]
    return part.gather_rows(found)


def lengths(encoded: Sequence[Encoded]) -> np.ndarray:
    """Return the number of loss-carrying tokens of each example, shape [examples]."""
    return np.array([row.n_tokens for row in encoded], dtype=np.float64)


def lexical(train: Sequence[Example], targets: Mapping[str, Sequence[Example]]) -> dict[str, np.ndarray]:
    """Return the mean BM25 similarity of each training example to a target's examples, per target."""
    from rank_bm25 import BM25Okapi

    index = BM25Okapi([_words(example) for example in train])
    return {
        name: np.mean([index.get_scores(_words(example)) for example in examples], axis=0)
        for name, examples in targets.items()
    }


def _words(example: Example) -> list[str]:
    # A text without a word would make an empty document, which BM25 cannot index.
    return re.findall(r"\w+|[^\w\s]", f"{example.prompt} {example.response}".lower()) or [""]


def chance(train: Sequence[Example], targets: Sequence[str], *, seed: int) -> dict[str, np.ndarray]:
    """Return standard normal numbers that depend on (seed, target, id) alone, per target."""
    if seed < 0:
        raise ParameterError("seed", seed, "a whole number, 0 or more")

    def draw(target: str, example: Example) -> float:
        digest = hashlib.sha256(f"{seed}/{target}/{example.id}".encode()).digest()
        return float(np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal())

    return {target: np.array([draw(target, example) for example in train]) for target in targets}
