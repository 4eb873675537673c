"""A model's shapes and the passes through it, traced from its configuration alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from infra_lib.attention import LONG
from infra_lib.curvature import weight_shape
from infra_lib.models import linears
from infra_lib.plan.trace import Trace, Traced, meta_batch, meta_model
from infra_lib.refine.gauss_newton import batch_product


@dataclass(frozen=True)
class Size:
    """What a configuration amounts to.

    Attributes
    ----------
    parameters, attributed
        All weights (tied ones once), and those of the layers that attribution covers.
    layers
        Number of those layers.
    factor_bytes
        Factors of all layers, as they are stored.
    """

    parameters: int
    attributed: int
    layers: int
    factor_bytes: int


Passes = Callable[[torch.dtype, int, int, int], Trace]
"""A traced pass: of a type, rows, tokens of a row, and positions of a row with logits."""


class Architecture:
    """A model's shapes and traced passes, from its configuration alone; plans may share it."""

    def __init__(self, config: Any) -> None:
        self.config = config
        whole = meta_model(config, torch.bfloat16)
        layers: dict[str, nn.Module] = linears(whole, None)
        self.layers = layers
        self.shapes = [weight_shape(module) for module in layers.values()]
        sides = sum(out * out + into * into for out, into in self.shapes)
        areas = sum(out * into for out, into in self.shapes)
        self.size = Size(sum(p.numel() for p in whole.parameters()), areas, len(layers), 4 * (sides + areas))
        self._traced: dict[torch.dtype, Traced] = {}

    def _take(self, dtype: torch.dtype, key: Any, step: Any) -> Trace:
        if dtype not in self._traced:
            self._traced[dtype] = Traced(self.config, dtype)
        return self._traced[dtype].take(key, step)

    @staticmethod
    def _attributed(model: Any) -> dict[str, torch.Tensor]:
        names = [f"{name}.weight" for name in linears(model, None)]
        return {name: model.get_parameter(name).detach() for name in names}

    def training(self, dtype: torch.dtype, rows: int, width: int, head: int) -> Trace:
        """Trace a forward and backward pass that trains every weight; its gradients are let go at once.

        They are counted with the rest of a training's state, which holds them from step to step.
        """

        def drop(parameter: torch.Tensor) -> None:
            parameter.grad = None

        def step(model: Any) -> None:
            hooks = [p.register_post_accumulate_grad_hook(drop) for p in model.parameters()]
            try:
                torch.autograd.backward(_log_probs(model, {}, rows, width, head).sum())
            finally:
                for hook in hooks:
                    hook.remove()

        return self._take(dtype, ("training", rows, width, head), step)

    def forward_backward(self, dtype: torch.dtype, rows: int, width: int, head: int) -> Trace:
        """Trace a forward and backward pass with frozen weights; ``head`` positions of a row get logits."""

        def step(model: Any) -> None:
            model.requires_grad_(False)
            hook = model.get_input_embeddings().register_forward_hook(
                lambda _m, _i, output: output.detach().requires_grad_(True)
            )
            try:
                torch.autograd.backward(_log_probs(model, {}, rows, width, head).sum())
            finally:
                hook.remove()
                model.requires_grad_(True)

        return self._take(dtype, ("backward", rows, width, head), step)

    def gradients(self, dtype: torch.dtype, rows: int, width: int, head: int) -> Trace:
        """Trace the gradients of the attributed weights, which are counted; all others are frozen."""

        def step(model: Any) -> Any:
            model.requires_grad_(False)
            weights = [model.get_parameter(f"{name}.weight") for name in linears(model, None)]
            for weight in weights:
                weight.requires_grad_(True)
            try:
                return torch.autograd.grad(_log_probs(model, {}, rows, width, head).sum(), weights)
            finally:
                model.requires_grad_(True)

        return self._take(dtype, ("gradients", rows, width, head), step)

    def scoring(self, dtype: torch.dtype, rows: int, width: int, head: int, targets: int) -> Trace:
        """Trace a forward-mode pass for several targets."""

        def step(model: Any) -> Any:
            weights = self._attributed(model)
            tangents = {name: weight.new_empty(targets, *weight.shape) for name, weight in weights.items()}

            def along(values: dict[str, torch.Tensor]) -> torch.Tensor:
                return _log_probs(model, values, rows, width, head)

            with torch.no_grad():
                return torch.func.vmap(lambda v: torch.func.jvp(along, (weights,), (v,))[1])(tangents)

        found = self._take(dtype, ("scores", rows, width, head, targets), step)
        # The directions are made inside the traced step, and the plan counts them.
        made = targets * self.size.attributed * bytes_of(dtype)
        return Trace(found.peak_bytes - made, found.flops)

    def products(self, dtype: torch.dtype, rows: int, width: int, head: int, targets: int) -> Trace:
        """Trace a product with the Gauss–Newton matrix, for several directions; its result is counted.

        ``head`` positions of a row carry the loss; logits are made for all.
        """

        def step(model: Any) -> Any:
            weights = self._attributed(model)
            tangents = {name: weight.new_empty(targets, *weight.shape) for name, weight in weights.items()}
            where = torch.zeros(rows * head, dtype=torch.long, device="meta")
            return batch_product(model, weights, tangents, meta_batch(rows, width), where)

        found = self._take(dtype, ("products", rows, width, head, targets), step)
        return Trace(found.peak_bytes - targets * self.size.attributed * bytes_of(dtype), found.flops)

    def fused(
        self, dtype: torch.dtype, rows: int, width: int, head: int, *, passes: Passes | None = None
    ) -> Trace:
        """Return a forward and backward pass whose attention is never held as a whole.

        ``passes`` is :meth:`training`, :meth:`gradients` or :meth:`forward_backward`, as which None counts.

        Bytes and operations under eager attention are c + a·T + b·T² in the sequence length T. Three
        short traces give them; fused attention (SDPA, flash) has the operations and not the T² bytes. Short
        rows are not worth it and stay eager (:func:`infra_lib.attention.fused_attention`).
        """
        passes = passes or self.forward_backward
        if width < LONG:
            return passes(dtype, rows, width, head)
        part, points = head / width, (256, 512, 768)
        traces = [passes(dtype, 1, t, max(1, round(t * part))) for t in points]
        _, slope, constant = np.polyfit(points, [trace.peak_bytes for trace in traces], 2)
        square, linear, _ = np.polyfit(points, [trace.flops for trace in traces], 2)
        tokens = rows * width
        return Trace(int(constant + tokens * slope), int(tokens * (linear + width * square)))


def _log_probs(model: Any, values: dict[str, torch.Tensor], rows: int, width: int, head: int) -> torch.Tensor:
    batch = meta_batch(rows, width)
    inputs = {**batch.inputs, "use_cache": False, "logits_to_keep": head}
    logits = torch.func.functional_call(model, values, (), inputs).logits.float()
    chosen = logits.gather(-1, batch.input_ids[:, :head, None]).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def bytes_of(dtype: torch.dtype) -> int:
    """Return the bytes of one number."""
    return torch.finfo(dtype).bits // 8
