r"""Attention and its derivative along tangents, a block of queries at a time, in plain PyTorch.

With P = softmax(scale · q kᵀ) and o = P v, along tangents q̇, k̇, v̇:

    Ṡ = scale · (q̇ kᵀ + q k̇ᵀ),    ȯ = (P ∘ Ṡ) v + P v̇ − rowsum(P ∘ Ṡ) ∘ o

Nothing of size [tokens, tokens] outlives a block. Heads of queries share heads of keys and values in
groups (grouped-query attention).
"""

from __future__ import annotations

import torch
from torch import Tensor

QUERIES = 256
"""Queries of a block."""


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return o [batch, heads, tokens, width] of causal (or masked) attention, by PyTorch's fused kernels.

    Parameters
    ----------
    query
        [batch, heads, tokens, width].
    key, value
        [batch, key heads, tokens, width].
    mask
        Boolean [batch, 1, tokens, tokens], True where a query sees a key; None is causal.
    """
    key, value = _for_each_query_head(query, key), _for_each_query_head(query, value)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale
    )


def derivative(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    mask: Tensor | None,
    scale: float,
    tangents: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Return ȯ [targets, batch, heads, tokens, width].

    Parameters
    ----------
    output
        What :func:`attention` returned.
    tangents
        q̇, k̇ and v̇, each with a leading dimension of targets.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    grouped = _for_each_query_head
    key, value = grouped(query, key), grouped(query, value)
    moved_query, moved_key, moved_value = (tangents[0], *(grouped(query, part) for part in tangents[1:]))
    tokens = query.shape[-2]
    blocks = []
    for start in range(0, tokens, QUERIES):
        stop = min(start + QUERIES, tokens)
        seen = tokens if mask is not None else stop  # a causal query sees no key after its own
        rows = slice(start, stop)
        keys = key[..., :seen, :].mT
        scores = (query[..., rows, :] @ keys).to(wide) * scale
        scores = scores.masked_fill(~_visible(mask, rows, seen, scores.device), float("-inf"))
        # A row that sees nothing (left padding) has no probabilities, and no derivative.
        probs = torch.softmax(scores, dim=-1).nan_to_num_(0.0)
        moved = moved_query[..., rows, :] @ keys + query[..., rows, :] @ moved_key[..., :seen, :].mT
        weights = moved.to(wide).mul_(scale).mul_(probs)
        total = weights.sum(-1, keepdim=True)
        blocks.append(
            weights.to(value.dtype) @ value[..., :seen, :]
            + probs.to(value.dtype) @ moved_value[..., :seen, :]
            - (total * output[..., rows, :]).to(value.dtype)
        )
    return torch.cat(blocks, dim=-2)


def _visible(mask: Tensor | None, rows: slice, seen: int, device: torch.device) -> Tensor:
    if mask is not None:
        return mask[..., rows, :seen]
    queries = torch.arange(rows.start, rows.stop, device=device)
    return torch.arange(seen, device=device) <= queries.unsqueeze(-1)


def _for_each_query_head(query: Tensor, part: Tensor) -> Tensor:
    """Repeat heads of keys or values [..., key heads, tokens, width] so that each query head has its own."""
    groups = query.shape[-3] // part.shape[-3]
    return part if groups == 1 else part.repeat_interleave(groups, dim=-3)
