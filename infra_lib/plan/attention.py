"""Stand-ins for fused attention in traces: tensors of its shapes, and none of [heads, tokens, tokens].

PyTorch's fused kernels do not run on the ``meta`` device, where attention falls back to its whole matrix.
The stand-ins make and keep what the kernels do; their values mean nothing, as all values of a trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

REVERSE, FORWARD = "infra_plan_reverse", "infra_plan_forward"
"""The names under which transformers knows the stand-ins."""


@contextmanager
def stand_in(model: Any, *, forward_mode: bool) -> Iterator[None]:
    """Trace a model with a stand-in for the attention of reverse or forward mode."""
    _register()
    before = model.config._attn_implementation
    model.set_attn_implementation(FORWARD if forward_mode else REVERSE)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@cache
def _register() -> None:
    for name, attend in ((REVERSE, _attend_reverse), (FORWARD, _attend_forward)):
        AttentionInterface.register(name, attend)
        AttentionMaskInterface.register(name, _no_mask)


def _no_mask(**_options: Any) -> None:
    """Make no mask: causal attention over rows of equal length has none."""


def _attend_reverse(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **_options: Any
) -> tuple[Tensor, None]:
    # Mixed precision rotates in float32, and attends in the type of its products.
    output: Any = _Kept.apply(query.to(value.dtype), key.to(value.dtype), value)
    return output.transpose(1, 2).contiguous(), None


def _attend_forward(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **_options: Any
) -> tuple[Tensor, None]:
    # Along tangents of all three, as the rule of :mod:`infra_lib.attention` is.
    output = query * (key.mean() + value.mean())
    return output.transpose(1, 2).contiguous(), None


class _Kept(torch.autograd.Function):
    """What a fused kernel keeps for its backward pass: its inputs, its output and a sum for every query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
