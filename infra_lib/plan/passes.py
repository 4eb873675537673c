"""A model's shapes and the passes through it, traced from its configuration alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from infra_lib.attention import can_be_fused
from infra_lib.curvature import weight_shape
from infra_lib.errors import ParameterError
from infra_lib.finetune.lora import is_target
from infra_lib.finetune.memory import checkpoint_activations
from infra_lib.finetune.trainer import weighted_loss
from infra_lib.models import linears
from infra_lib.plan.attention import stand_in
from infra_lib.plan.mixed import Lowered
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


Passes = Callable[..., Trace]
"""A traced pass: of a type, rows, tokens of a row, and positions of a row with logits; ``fused`` or not."""


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
        # A finished model is stored in its base's type, single precision where a configuration names none.
        self.stored_bytes = bytes_of(config.dtype or torch.float32) * self.size.parameters
        self.fusable = can_be_fused(whole)
        self.checkpointable = bool(getattr(whole, "supports_gradient_checkpointing", False))
        self._linears = {name: weight_shape(module) for name, module in linears(whole, ".*").items()}
        numbered = re.compile(r"\.\d+\.")
        self.layer_parameters = sum(
            weight.numel() for name, weight in whole.named_parameters() if numbered.search(name)
        )
        self._traced: dict[torch.dtype, Traced] = {}

    def _take(
        self, dtype: torch.dtype, key: Any, step: Any, *, fused: bool = False, forward_mode: bool = False
    ) -> Trace:
        if dtype not in self._traced:
            self._traced[dtype] = Traced(self.config, dtype)
        if not fused:
            return self._traced[dtype].take(key, step)

        def with_stand_in(model: Any) -> Any:
            with stand_in(model, forward_mode=forward_mode):
                return step(model)

        return self._traced[dtype].take((key, "fused"), with_stand_in)

    @staticmethod
    def _attributed(model: Any) -> dict[str, torch.Tensor]:
        names = [f"{name}.weight" for name in linears(model, None)]
        return {name: model.get_parameter(name).detach() for name in names}

    def training(
        self,
        dtype: torch.dtype,
        rows: int,
        width: int,
        _head: int = 0,
        *,
        fused: bool = False,
        checkpointing: bool = False,
        mixed: bool = False,
        adapters: tuple[str, ...] = (),
    ) -> Trace:
        """Trace a training's forward pass, its own loss over all positions, and the backward pass.

        Gradients of weights are let go at once: they are counted with the rest of a training's state, which
        holds them from step to step.

        Parameters
        ----------
        checkpointing
            Activations of a layer are made again in the backward pass.
        mixed
            The model is in float32, and ``dtype`` is what autocast multiplies in.
        adapters
            Layers that get an adapter, as ``lora_targets`` names them; nothing else is trained. An adapter
            keeps its layer's input, which below float32 is a copy of its own; it is small itself.

        Raises
        ------
        ParameterError
            For checkpointing of a model that does not support it.
        """
        if checkpointing and not self.checkpointable:
            name = type(self.config).__name__
            raise ParameterError(
                "gradient_checkpointing", True, f"false for a model of {name}, which has none"
            )

        def step(model: Any) -> None:
            trained = list(model.parameters())
            autocast = Lowered(dtype) if mixed else None
            with ExitStack() as stack:
                if adapters:
                    trained = stack.enter_context(_adapters_alone(model, adapters, copied=dtype.itemsize < 4))
                if checkpointing:
                    stack.callback(checkpoint_activations, model, on=False)
                    checkpoint_activations(model)
                stack.callback(model.eval)
                model.train()
                batch = meta_batch(rows, width)
                weights = torch.ones(rows, width, device="meta")

                def loss() -> torch.Tensor:
                    with autocast.forward_pass() if autocast else nullcontext():
                        logits = model(**batch.inputs, use_cache=False).logits
                        return weighted_loss(logits, batch.input_ids, weights)

                if autocast:
                    stack.enter_context(autocast.made_again(model))
                _differentiate(loss, trained)

        key = ("training", rows, width, checkpointing, mixed, adapters)
        found = self._take(torch.float32 if mixed else dtype, key, step, fused=fused)
        # The trace trains the layers themselves: a product for each weight, which adapters do without.
        shapes = self.adapted(adapters)
        spared = 2 * rows * width * sum(out * into for out, into in shapes)
        return Trace(found.peak_bytes, found.flops - spared)

    def adapted(self, targets: tuple[str, ...]) -> list[tuple[int, int]]:
        """Return the (out, in) shapes of the layers that get an adapter, as ``lora_targets`` names them."""
        return [shape for name, shape in self._linears.items() if is_target(name, targets)]

    def forward_backward(
        self, dtype: torch.dtype, rows: int, width: int, head: int, *, fused: bool = False
    ) -> Trace:
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

        return self._take(dtype, ("backward", rows, width, head), step, fused=fused)

    def gradients(
        self, dtype: torch.dtype, rows: int, width: int, head: int, *, fused: bool = False
    ) -> Trace:
        """Trace the gradients of the attributed weights, each let go at once; all others are frozen."""

        def step(model: Any) -> None:
            model.requires_grad_(False)
            weights = [model.get_parameter(f"{name}.weight") for name in linears(model, None)]
            for weight in weights:
                weight.requires_grad_(True)
            try:
                _differentiate(lambda: _log_probs(model, {}, rows, width, head).sum(), weights)
            finally:
                model.requires_grad_(True)

        return self._take(dtype, ("gradients", rows, width, head), step, fused=fused)

    def scoring(
        self, dtype: torch.dtype, rows: int, width: int, head: int, targets: int, *, fused: bool = False
    ) -> Trace:
        """Trace a forward-mode pass for several targets."""

        def step(model: Any) -> Any:
            weights = self._attributed(model)
            tangents = {name: weight.new_empty(targets, *weight.shape) for name, weight in weights.items()}

            def along(values: dict[str, torch.Tensor]) -> torch.Tensor:
                return _log_probs(model, values, rows, width, head)

            with torch.no_grad():
                return torch.func.vmap(lambda v: torch.func.jvp(along, (weights,), (v,))[1])(tangents)

        found = self._take(
            dtype, ("scores", rows, width, head, targets), step, fused=fused, forward_mode=True
        )
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

    def fused(self, dtype: torch.dtype, rows: int, width: int, head: int, *, passes: Passes) -> Trace:
        """Return one of the passes with attention that is never held as a whole, where the model has it.

        Its bytes are traced with a stand-in. Operations are those of eager attention, a·T + b·T² in the
        sequence length T, which short traces give.
        """
        if not self.fusable:
            return passes(dtype, rows, width, head)
        part, points = head / width, (256, 512, 768)
        flops = [passes(dtype, 1, t, max(1, round(t * part))).flops for t in points]
        square, linear, _ = np.polyfit(points, flops, 2)
        tokens = rows * width
        # Without attention's matrix a batch is one row of all its tokens, with one position of logits in all.
        found = passes(dtype, 1, tokens, 1 if head == 1 else rows * head, fused=True)
        return Trace(found.peak_bytes, int(tokens * (linear + width * square)))


@contextmanager
def _adapters_alone(model: Any, targets: tuple[str, ...], *, copied: bool) -> Iterator[list[Any]]:
    """Freeze all weights but those of layers that get an adapter, and return these."""
    chosen = [module for name, module in linears(model, ".*").items() if is_target(name, targets)]
    hooks = []
    model.requires_grad_(False)
    for module in chosen:
        module.weight.requires_grad_(True)
        if copied:  # peft takes each adapter's input to its own type and back
            hooks.append(module.register_forward_pre_hook(lambda _module, given: (given[0].clone(),)))
    try:
        yield [module.weight for module in chosen]
    finally:
        for hook in hooks:
            hook.remove()
        model.requires_grad_(True)


def _differentiate(value: Callable[[], torch.Tensor], weights: list[Any]) -> None:
    """Run forward and backward, and let go of each weight's gradient as it comes."""

    def drop(parameter: torch.Tensor) -> None:
        parameter.grad = None

    hooks = [weight.register_post_accumulate_grad_hook(drop) for weight in weights]
    try:
        torch.autograd.backward(value())
    finally:
        for hook in hooks:
            hook.remove()


def _log_probs(model: Any, values: dict[str, torch.Tensor], rows: int, width: int, head: int) -> torch.Tensor:
    batch = meta_batch(rows, width)
    inputs = {**batch.inputs, "use_cache": False, "logits_to_keep": head}
    logits = torch.func.functional_call(model, values, (), inputs).logits.float()
    chosen = logits.gather(-1, batch.input_ids[:, :head, None]).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def bytes_of(dtype: torch.dtype) -> int:
    """Return the bytes of one number."""
    return torch.finfo(dtype).bits // 8
