"""Simple scores that attribution must beat: gradient cosine and norms, loss, length, words, chance.

Each returns one array [examples] per target, higher meaning more helpful by that score's
own idea. None of them is an influence function.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from infra_lib.curvature import Factors, construction_bytes, layer_groups
from infra_lib.device import read_back
from infra_lib.distributed import shard
from infra_lib.errors import NumericalError, ParameterError
from infra_lib.example_gradients import example_gradients
from infra_lib.examples import Example
from infra_lib.models import Batch, Encoded, batches
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
    memory_bytes: int = 2**33,
) -> np.ndarray:
    """Return ‖g_i‖² of each example's log-likelihood gradient over the named layers, shape [examples].

    With ``factors`` it is the *self-influence* g_iᵀ (H + λ)⁻¹ g_i: how much up-weighting an example
    raises its own log-likelihood.

    Parameters
    ----------
    factors, damping, method
        Curvature of the same model, as in :func:`infra_lib.influence.precondition`; None for the plain norm.
    memory_bytes
        A GPU's, for the factors of as many layers as a pass over the examples takes; there are as many
        passes as that needs. On the CPU factors are where they are needed, and one pass takes all.
    """
    modules = dict(model.named_modules())
    part = shard(encoded)
    squared = np.zeros(len(part.rows))
    groups = batches(part.take(encoded), batch_tokens=batch_tokens, pad_id=pad_id)
    passes: list[list[str]] = [list(names)]
    curve: Callable[[str], Any] | None = None
    if factors is not None:
        like = torch.empty(0, device=model.device)
        curve = partial(factors.damped, method=method, damping=damping, like=like)
    brings = curve is not None and model.device.type == "cuda"
    if brings:
        needs = {name: construction_bytes(modules[name], diagonal=False) for name in names}
        passes = layer_groups(needs, memory_bytes)
    at_hand = squares = None
    for own in passes:
        at_hand = squares = None  # what the pass before held goes first
        at_hand = {name: curve(name) for name in own}.__getitem__ if curve and brings else curve
        squares = partial(_squared_norms, model, {name: modules[name] for name in own}, at_hand)
        for values, batch in read_back((squares(batch.to(model.device)), batch) for batch in groups):
            squared[list(batch.rows)] += values
    squared = part.gather_rows(squared)
    if not np.isfinite(squared).all():
        raise NumericalError("a gradient norm is not finite")
    return squared


def _squared_norms(
    model: Any, modules: Mapping[str, torch.nn.Module], curve: Callable[[str], Any] | None, batch: Batch
) -> torch.Tensor:
    """Return ‖g_i‖² of a batch [rows] over layers, or g_iᵀ (H + λ)⁻¹ g_i by their damped curvature."""
    total = torch.zeros(len(batch.rows), dtype=torch.float64, device=model.device)
    for name, grads_boi in example_gradients(model, modules, batch):
        values, basis = curve(name) if curve else (None, None)
        if basis is not None:
            q_out, q_in = basis
            grads_boi = q_out.T @ grads_boi @ q_in
        squares = grads_boi.square() if values is None else grads_boi.square() / values
        total += squares.sum((1, 2)).double()
    return total


def losses(
    model: Any, encoded: Sequence[Encoded], *, pad_id: int = 0, batch_tokens: int = 4096
) -> np.ndarray:
    """Return each example's mean loss per response token in nats, shape [examples]."""
    part = shard(encoded)
    mine = part.take(encoded)
    found = np.zeros(len(mine))
    groups = batches(mine, batch_tokens=batch_tokens, pad_id=pad_id)
    with torch.no_grad():
        summed = (
            (-token_log_probs(model, batch.to(model.device)).sum(1).double(), batch) for batch in groups
        )
        for total, batch in read_back(summed):
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
