"""Attention that PyTorch's forward mode and ``vmap`` understand, registered with transformers under a name.

The rule sees all tangents of a ``vmap`` at once, so that targets share what belongs to the primal
computation. It has no reverse mode: :func:`infra_lib.attention.fused_attention` is for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from infra_lib.attention import blocks
from infra_lib.attention.kernels import derivative_kernel, is_usable
from infra_lib.attention.masks import register_masks

NAME = "infra_forward"
"""The name under which transformers knows this attention."""


@cache
def register() -> None:
    """Make the attention known to transformers, with the masks of its fused attention."""
    AttentionInterface.register(NAME, _attend)
    register_masks(NAME)


def _attend(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_options: Any,
) -> tuple[Tensor, None]:
    """Do what transformers asks of an attention: return [batch, tokens, heads, width], and no weights."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output: Any = _Attention.apply(query, key, value, attention_mask, scale)
    return output.transpose(1, 2).contiguous(), None


class _Attention(torch.autograd.Function):
    """o = softmax(scale · q kᵀ) v, and ȯ along tangents of q, k and v."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        return blocks.attention(query, key, value, mask, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        query, key, value, mask, scale = inputs
        ctx.scale = scale
        ctx.save_for_forward(query, key, value, output, mask)

    @staticmethod
    def jvp(ctx: Any, query: Any, key: Any, value: Any, _mask: None, _scale: None) -> Any:
        primal = ctx.saved_tensors
        tangents = [
            torch.zeros_like(part) if moved is None else moved
            for part, moved in zip(primal[:3], (query, key, value), strict=True)
        ]
        return _Derivative.apply(*primal, ctx.scale, *tangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        """Attend a batch of primal values one by one; targets share theirs, so that this is rare."""
        parts = [
            _front(value, dim, info.batch_size) for value, dim in zip(inputs[:4], in_dims[:4], strict=True)
        ]
        each = [
            _Attention.apply(*(None if part is None else part[i] for part in parts), inputs[4])
            for i in range(info.batch_size)
        ]
        return torch.stack(each), 0


class _Derivative(torch.autograd.Function):
    """ȯ as a function of everything, so that ``vmap`` hands over the tangents of all targets together."""

    @staticmethod
    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        mask: Tensor | None,
        scale: float,
        *tangents: Tensor,
    ) -> Tensor:
        one = [part.unsqueeze(0) for part in tangents]
        return _derivative((query, key, value, output, mask), scale, one).squeeze(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        tangents = [
            _front(part, dim, info.batch_size) for part, dim in zip(inputs[6:], in_dims[6:], strict=True)
        ]
        if all(dim is None for dim in in_dims[:5]):
            return _derivative(inputs[:5], inputs[5], tangents), 0
        parts = [
            _front(part, dim, info.batch_size) for part, dim in zip(inputs[:5], in_dims[:5], strict=True)
        ]
        each = [
            _derivative([None if part is None else part[i] for part in parts], inputs[5], moved)
            for i, moved in enumerate(zip(*(part.split(1) for part in tangents), strict=True))
        ]
        return torch.cat(each), 0


def _derivative(primal: Sequence[Any], scale: float, tangents: Sequence[Any]) -> Tensor:
    query, key, value, output, mask = primal
    moved_query, moved_key, moved_value = tangents
    compute = derivative_kernel if is_usable(query) else blocks.derivative
    return compute(query, key, value, output, mask, scale, (moved_query, moved_key, moved_value))


def _front(value: Any, dim: int | None, size: int) -> Any:
    """Return a value with the mapped dimension first, or one view of it per member of the map."""
    if value is None:
        return None
    return value.unsqueeze(0).expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
