r"""Token scores of one model by several methods and for several targets, sharing passes between them.

With ∇f a target's gradient and g_t that of token t's loss term (:mod:`infra_lib.influence`):

===========  ==================================  =======================================
method       score of token t                    units
===========  ==================================  =======================================
``ekfac``    ⟨(H_EKFAC + λ)⁻¹∇f, g_t⟩            nats of the target per unit of weight
``kfac``     ⟨(H_KFAC + λ)⁻¹∇f, g_t⟩             nats of the target per unit of weight
``graddot``  ⟨∇f, g_t⟩                           nats of the target per unit of step
``gradcos``  ⟨∇f, g_t⟩ / (‖∇f‖ ‖Σ_t g_t‖)        none; an example's lies between −1 and 1
===========  ==================================  =======================================

All are linear in g_t, so each example's score is the sum of its tokens'. The first three are derivatives
along a direction and go through one pass together; the cosine is the dot product over two norms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infra_lib.attribute.normalise import by_root
from infra_lib.attribute.scorer import squared_norm
from infra_lib.baselines import gradient_norms
from infra_lib.curvature import fit_factors
from infra_lib.errors import ParameterError
from infra_lib.examples import Example
from infra_lib.influence import (
    Direction,
    moved,
    position_scores,
    precondition,
    target_gradient,
    token_scores,
)
from infra_lib.launched import METHODS as METHODS_ON
from infra_lib.launched import scores_on
from infra_lib.models import Encoded, encode, load_model, load_tokenizer

METHODS = ("ekfac", "kfac", "graddot", "gradcos")
"""Methods with token scores that need no more than the factors of a study and gradients."""

Key = tuple[str, str]
"""A method and a target."""

TokenScores = Mapping[Key, Sequence[np.ndarray]]
"""(method, target) to one array per example."""


@dataclass(frozen=True)
class Explored:
    """Scores of training examples under one model.

    Attributes
    ----------
    loss
        Loss-term reading: one array [response tokens] per example.
    position
        Position reading: one array [tokens] per example, prompt positions included.
    train, encoded
        The scored examples, and the same in tokens.
    """

    loss: TokenScores
    position: TokenScores
    train: Sequence[Example]
    encoded: Sequence[Encoded]


def score_methods(
    model_folder: str | Path,
    train: Sequence[Example],
    targets: Mapping[str, Sequence[Example]],
    *,
    methods: Sequence[str] = METHODS,
    examples: int | None = None,
    damping: float = 0.1,
    labels: str = "sampled",
    seed: int = 0,
    device: str = "cpu",
    factors_folder: Path | None = None,
    max_tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
    batch_tokens: int = 4096,
    memory_bytes: int = 2 * 2**30,
    directions_at_once: int = 6,
    devices: int = 1,
    progress: bool = True,
) -> Explored:
    """Score training examples of a model by several methods, in both readings of a token.

    Parameters
    ----------
    model_folder, train, targets, damping, labels, seed, device, devices, max_tokens, dtype, batch_tokens
        As in :func:`infra_lib.scoring.score_training_set`.
    methods
        Of :data:`METHODS`.
    examples
        The most examples to score, drawn from ``train`` by the seed; None scores all. Factors are always
        of all training examples.
    factors_folder
        Where the factors of ``train`` are stored; they are fitted where they are not there.
    memory_bytes
        Room for factors under construction, where they are not stored.
    directions_at_once
        Directions, one for each method and target, that share a scoring pass; fewer take less memory and
        more time. Batches shrink with their number, to the memory that two directions take.

    Raises
    ------
    ParameterError
        For a method that is unknown, or none, or more processes than devices or examples.
    """
    if not methods or set(methods) - set(METHODS):
        raise ParameterError("explorer_methods", list(methods), f"a non-empty list of {', '.join(METHODS)}")
    tokenizer = load_tokenizer(model_folder)
    size: dict[str, Any] = {"pad_id": tokenizer.pad_token_id or 0, "batch_tokens": batch_tokens}
    cut: dict[str, Any] = {"end_token": True, "max_tokens": max_tokens}
    encoded = [encode(tokenizer, example, **cut) for example in train]
    rows = drawn([example.id for example in train], examples, seed)
    order = [(method, target) for target in targets for method in methods]
    if devices > 1:
        options: dict[str, Any] = {
            "methods": list(methods),
            "examples": examples,
            "damping": damping,
            "labels": labels,
            "seed": seed,
            "factors_folder": factors_folder,
            "max_tokens": max_tokens,
            "dtype": dtype,
            "batch_tokens": batch_tokens,
            "memory_bytes": memory_bytes,
            "directions_at_once": directions_at_once,
            "progress": progress,
        }
        given = (devices, METHODS_ON, model_folder, train, targets)
        arrays, _ = scores_on(*given, device=device, options=options)
        loss, position = ({key: arrays[reading, *key] for key in order} for reading in ("loss", "position"))
        return Explored(loss, position, [train[k] for k in rows], [encoded[k] for k in rows])
    model = load_model(model_folder, dtype=dtype, device=device)
    factors = fit_factors(
        model,
        encoded,
        labels=labels,
        seed=seed,
        memory_bytes=memory_bytes,
        folder=factors_folder,
        replace_torn=True,
        progress=progress,
        **size,
    )
    train, encoded = [train[k] for k in rows], [encoded[k] for k in rows]
    names = list(factors.layers)
    along: dict[Key, Direction] = {}
    squares: dict[str, float] = {}

    def directions_of(target: str, correct: Sequence[Example]) -> None:
        # On a large model a gradient is gigabytes, four bytes a weight: one at a time, and none is kept.
        own = [encode(tokenizer, row, **cut) for row in correct]
        gradient = target_gradient(model, names, own, offload=True, **size)
        squares[target] = squared_norm(gradient)
        settings: dict[str, Any] = {"damping": damping, "dtype": dtype, "device": device}
        for method in (name for name in methods if name in ("ekfac", "kfac")):
            along[method, target] = moved(precondition(factors, gradient, method=method, **settings), home)
        if {"graddot", "gradcos"} & set(methods):
            along["graddot", target] = moved({name: part.to(dtype) for name, part in gradient.items()}, home)

    kinds = len({method.replace("gradcos", "graddot") for method in methods})
    # Those that wait for their pass do not wait on the device.
    home = "cpu" if directions_at_once < kinds * len(targets) else device
    for target, correct in targets.items():
        directions_of(target, correct)
    loss, position = dict[Key, list[np.ndarray]](), dict[Key, list[np.ndarray]]()
    keys = list(along)
    for start in range(0, len(keys), directions_at_once):
        # The engine knows directions by name, whatever they are of.
        turn = range(len(keys))[start : start + directions_at_once]
        some = {str(k): moved(along[keys[k]], device) for k in turn}
        # As much memory as a pass of two directions takes; on a CPU larger batches only leave its caches.
        room = {**size, "batch_tokens": max(1, 2 * batch_tokens // max(2, len(some)))}
        for score, found in ((token_scores, loss), (position_scores, position)):
            for k, values in score(model, encoded, some, progress=progress, **room).items():
                found[keys[int(k)]] = values
    if "gradcos" in methods:
        own = gradient_norms(model, encoded, names, **size)
        for target, square in squares.items():
            squared = own * square
            for found in (loss, position):
                found["gradcos", target] = by_root(found["graddot", target], squared)
    return Explored({k: loss[k] for k in order}, {k: position[k] for k in order}, train, encoded)


def drawn(ids: Sequence[str], size: int | None, seed: int) -> list[int]:
    """Return the rows of at most ``size`` examples, in order; which ones depends on (seed, ids) alone."""
    if size is None or size >= len(ids):
        return list(range(len(ids)))
    by_id = sorted(range(len(ids)), key=lambda k: ids[k])
    chosen = np.random.default_rng(seed).permutation(len(by_id))[:size]
    return sorted(by_id[j] for j in chosen)
