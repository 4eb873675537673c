"""Linear layers seen from outside: shapes, identity, and what passes through them in a backward pass."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from infra_lib.errors import ModelError
from infra_lib.models import Encoded, batches


def weight_shape(module: nn.Module) -> tuple[int, int]:
    """Return (out, in) of a linear layer; GPT-2's Conv1D stores its weight as [in, out]."""
    weight: Any = module.weight
    rows, columns = weight.shape
    return (int(columns), int(rows)) if isinstance(module, Conv1D) else (int(rows), int(columns))


def out_by_in(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a tensor of the weight's shape as [out, in] (its own inverse)."""
    return weight.T if isinstance(module, Conv1D) else weight


def model_fingerprint(model: Any) -> str:
    """Return a digest of the values of all parameters of a model, each hashed by a thread of its own.

    Of all, and not of the layers that factors are made for: a layer's inputs and gradients depend on every
    other layer too.
    """

    def one(named: tuple[str, nn.Parameter]) -> bytes:
        name, weight = named
        digest = hashlib.sha256(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(weight.detach().contiguous().cpu().view(torch.uint8).numpy().data)
        return digest.digest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return hashlib.sha256(b"".join(pool.map(one, model.named_parameters()))).hexdigest()


@contextmanager
def watched(
    model: Any,
    modules: Mapping[str, nn.Module],
    on_input: Callable[[str, Tensor], None],
    on_gradient: Callable[[str, Tensor], None],
) -> Iterator[None]:
    """Hand over each layer's input as the forward pass meets it, its output's gradient as the backward does.

    Nothing is kept here, so that a caller can contract and let go: memory is that of the model's own
    graph. The graph starts at the first of the layers (parameters are frozen for the duration), so that
    no gradient flows further down than it is needed, and none is computed for a weight.

    Parameters
    ----------
    on_input, on_gradient
        Called with a layer's name and its input [..., in], or the gradient at its output [..., out].
        Layers that are given the very same tensor get equal ``data_ptr()`` one directly after the other.
    """

    def forward(inputs: Any, output: Tensor, name: str) -> Tensor:
        on_input(name, inputs[0].detach())
        if output.requires_grad:
            output.register_hook(lambda grad: on_gradient(name, grad.detach()))
            return output
        # The graph begins here. Falcon adds to an MLP's output in place, which a leaf and its views forbid.
        leaf = output.detach().requires_grad_(True)
        leaf.register_hook(lambda grad: on_gradient(name, grad.detach()))
        return leaf.clone()

    handles = [
        module.register_forward_hook(lambda _m, inputs, output, name=name: forward(inputs, output, name))
        for name, module in modules.items()
    ]
    frozen = [p for p in model.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)


@torch.no_grad()
def check_met(model: Any, modules: Mapping[str, nn.Module], example: Encoded) -> None:
    """Raise unless a text passes each layer once.

    Raises
    ------
    ModelError
        For a layer that is not met, such as one that looks at pictures, or is met more often, whose inputs
        and gradients would not pair up.
    """
    met = dict.fromkeys(modules, 0)

    def count(name: str) -> None:
        met[name] += 1

    handles = [
        module.register_forward_hook(lambda *_, name=name: count(name)) for name, module in modules.items()
    ]
    try:
        batch = batches([example], batch_tokens=1, pad_id=0)[0].to(model.device)
        model(**batch.inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    for name, times in met.items():
        if times != 1:
            often = f"passes layer {name} {times} times" if times else f"does not pass layer {name}"
            raise ModelError(f"a text {often} of {type(model).__name__}; leave it out by --layers")


@contextmanager
def captured(model: Any, modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Record (input [batch, tokens, in], output gradient [batch, tokens, out]) of layers in a backward pass.

    For work that needs all layers at once; :func:`watched` holds less in memory.
    """
    shape: list[int] = []
    inputs: dict[str, Tensor] = {}
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def start(_m: nn.Module, _inputs: Any, output: Tensor) -> None:
        shape[:] = output.shape[:2]

    # OPT hands its MLPs all positions in one row; views bring back [batch, tokens, …].
    def on_input(name: str, acts: Tensor) -> None:
        inputs[name] = acts.view(*shape, -1)

    def on_gradient(name: str, grads: Tensor) -> None:
        seen[name] = (inputs.pop(name), grads.reshape(*shape, -1))

    handle = model.get_input_embeddings().register_forward_hook(start)
    try:
        with watched(model, modules, on_input, on_gradient):
            yield seen
    finally:
        handle.remove()


class SharedInput:
    """Recognises layers that are given the very same input tensor one after the other (gate and up)."""

    def __init__(self) -> None:
        self._owner, self._acts = "", torch.empty(0)

    def owner(self, name: str, acts: Tensor) -> str:
        """Return the first layer that was given this tensor: ``name`` itself, or the one before it."""
        # The last tensor is held, so that its memory cannot become another one's in the meantime.
        if self._acts.data_ptr() != acts.data_ptr() or self._acts.shape != acts.shape:
            self._owner, self._acts = name, acts
        return self._owner
