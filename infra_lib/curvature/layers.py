"""Linear layers seen from outside: shapes, identity, and what passes through them in a backward pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def weight_shape(module: nn.Module) -> tuple[int, int]:
    """Return (out, in) of a linear layer; GPT-2's Conv1D stores its weight as [in, out]."""
    weight: Any = module.weight
    rows, columns = weight.shape
    return (int(columns), int(rows)) if isinstance(module, Conv1D) else (int(rows), int(columns))


def out_by_in(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a tensor of the weight's shape as [out, in] (its own inverse)."""
    return weight.T if isinstance(module, Conv1D) else weight


def model_fingerprint(model: Any, names: Sequence[str]) -> str:
    """Return a digest of the values of the named layers' weights."""
    modules = dict(model.named_modules())
    digest = hashlib.sha256()
    for name in names:
        weight = modules[name].weight.detach()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(weight.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def captured(model: Any, modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Record (input [batch, tokens, in], output gradient [batch, tokens, out]) of layers in a backward pass.

    No gradient of a weight is computed: parameters are frozen for the duration, and the embedding's
    output starts the graph.
    """
    shape: list[int] = []
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def start(_m: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        shape[:] = output.shape[:2]
        return output.detach().requires_grad_(True)

    handles = [model.get_input_embeddings().register_forward_hook(start)]
    for name, module in modules.items():

        def forward(_m: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
            # OPT hands its MLPs all positions in one row; views bring back [batch, tokens, …].
            acts = inputs[0].detach().view(*shape, -1)

            def keep(grad: Tensor) -> None:
                seen[name] = (acts, grad.detach().reshape(*shape, -1))

            output.register_hook(keep)

        handles.append(module.register_forward_hook(forward))
    frozen = [p for p in model.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)
