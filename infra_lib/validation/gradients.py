"""Scores of every training example on every target example, from gradients and their curvature.

A target is a mean over target examples, and scores are linear in it. So a table
*training examples × target examples* holds the scores on every target that can be formed from
these examples, and on every resample of them. The gradients are formed outright, a few layers at
a time: a means for models small enough to be retrained by the hundred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra_lib.curvature import Factors, layer_groups, weight_shape
from infra_lib.device import to_device
from infra_lib.errors import NumericalError, ParameterError
from infra_lib.example_gradients import example_gradients
from infra_lib.models import Encoded, batches

CURVED = ("ekfac", "kfac", "diagonal")
"""Methods that take a damping."""

Key = tuple[str, float | None]
"""Method, damping (None where it takes none)."""


def gradient_scores(
    model: Any,
    train: Sequence[Encoded],
    targets: Sequence[Encoded],
    factors: Factors,
    dampings: Sequence[float],
    *,
    methods: Sequence[str] = CURVED,
    pad_id: int = 0,
    batch_tokens: int = 4096,
    memory_bytes: int | None = None,
) -> dict[Key, np.ndarray]:
    """Score training examples on each target example by curvature, and by gradients alone.

    Parameters
    ----------
    factors
        Of the same model; with the diagonal where ``diagonal`` is among the methods.
    dampings
        Multiples of a layer's mean eigenvalue.
    methods
        Of :data:`CURVED`. ``graddot`` and ``gradcos`` come without being asked for.
    memory_bytes
        For gradients held at a time, on the model's device; layers are taken in as many groups as this
        needs, each with a pass over all examples. None is half a GiB, and 8 GiB on a GPU.

    Returns
    -------
    dict
        (method, damping) to scores [training examples, target examples], in nats of the target's
        log-likelihood per unit of weight in a mean loss. ``gradcos`` leaves out the norm of the target's
        gradient, a positive factor that changes no rank of a target.

    Raises
    ------
    ParameterError
        For an unknown method, or no target.
    NumericalError
        For scores that are not finite.
    """
    if unknown := sorted(set(methods) - set(CURVED)):
        raise ParameterError("methods", unknown[0], f"one of {', '.join(CURVED)}")
    if not targets:
        raise ParameterError("target", 0, "at least one target example")
    shape = len(train), len(targets)
    keys: list[Key] = [(method, float(damping)) for method in methods for damping in dampings]
    # On the device, so that no layer waits for the one before it to be read.
    nothing = torch.zeros(shape, dtype=torch.float64, device=model.device)
    sums = {key: nothing.clone() for key in [*keys, ("graddot", None)]}
    squared = torch.zeros(len(train), dtype=torch.float64, device=model.device)
    if memory_bytes is None:
        memory_bytes = 2**33 if model.device.type == "cuda" else 2**29
    modules = dict(model.named_modules())
    needs = {name: 4 * sum(shape) * int(np.prod(weight_shape(modules[name]))) for name in factors.layers}
    for names in layer_groups(needs, memory_bytes):
        found_train = _gradients(model, train, names, pad_id, batch_tokens)
        found_target = _gradients(model, targets, names, pad_id, batch_tokens)
        for name in names:
            rows, columns = found_train.pop(name), found_target.pop(name)
            squared += rows.square().sum((1, 2)).double()
            for key, table in _layer_scores(rows, columns, factors, name, keys):
                sums[key] += table
    scores = {key: total.cpu().numpy() for key, total in sums.items()}
    scores["gradcos", None] = scores["graddot", None] / np.sqrt(squared.cpu().numpy())[:, None]
    if not all(np.isfinite(table).all() for table in scores.values()):
        raise NumericalError("a score is not finite")
    return scores


def _layer_scores(
    rows: Tensor, columns: Tensor, factors: Factors, name: str, keys: Sequence[Key]
) -> Iterator[tuple[Key, Tensor]]:
    """Yield one layer's part of each score from gradients [examples, out, in]."""
    yield ("graddot", None), _product(rows, columns)
    layer = factors.layers[name]
    for turned in (False, True):
        if turned:
            q_out, q_in = layer.q_out.to(rows), layer.q_in.to(rows)
            rows, columns = (q_out.T @ part @ q_in for part in (rows, columns))
        for method, damping in keys:
            if damping is not None and (method != "diagonal") == turned:
                values = factors.eigenvalues(name, method).to(rows)
                yield (method, damping), _product(rows / (values + damping * values.mean()), columns)


def _product(rows: Tensor, columns: Tensor) -> Tensor:
    return (rows.flatten(1) @ columns.flatten(1).T).double()


def _gradients(
    model: Any, encoded: Sequence[Encoded], names: Sequence[str], pad_id: int, batch_tokens: int
) -> dict[str, Tensor]:
    """Return each example's gradient of its log-likelihood [examples, out, in] by layer, on its device."""
    modules = dict(model.named_modules())
    chosen = {name: modules[name] for name in names}
    found = {
        name: torch.empty(len(encoded), *weight_shape(module), device=model.device)
        for name, module in chosen.items()
    }
    for batch in batches(encoded, batch_tokens=batch_tokens, pad_id=pad_id):
        batch = batch.to(model.device)
        rows = to_device(torch.tensor(batch.rows), model.device)
        for name, grads_boi in example_gradients(model, chosen, batch):
            found[name].index_copy_(0, rows, grads_boi)
    return found
