r"""The derivative of attention along tangents as one Triton kernel, for CUDA devices.

Each program takes a block of queries of one head along one target's tangents and walks over the keys
twice: once for the rows' softmax denominators, once for

    ȯ = (P ∘ Ṡ) v + P v̇ − rowsum(P ∘ Ṡ) ∘ o,    Ṡ = scale · (q̇ kᵀ + q k̇ᵀ)

(:mod:`infra_lib.attention.blocks` is the same in plain PyTorch, and the reference in tests). Products
are taken in the inputs' precision, in single precision exactly as such (no TF32), and summed in single
precision.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

WIDEST = 256
"""Widest head that the kernel takes."""

if find_spec("triton"):  # PyTorch's CUDA builds bring it, its CPU builds do not
    triton = import_module("triton")
    tl = import_module("triton.language")

    @triton.jit
    def _kernel(  # type: ignore[no-untyped-def]
        q_ptr,
        k_ptr,
        v_ptr,
        o_ptr,
        dq_ptr,
        dk_ptr,
        dv_ptr,
        mask_ptr,
        out_ptr,
        scale,
        batch,
        heads,
        key_heads,
        tokens,
        width,
        mask_stride,
        MASKED: tl.constexpr,  # type: ignore[name-defined]
        PRECISION: tl.constexpr,  # type: ignore[name-defined]
        QUERIES: tl.constexpr,  # type: ignore[name-defined]
        KEYS: tl.constexpr,  # type: ignore[name-defined]
        WIDTH: tl.constexpr,  # type: ignore[name-defined]
    ):
        first = tl.program_id(0) * QUERIES
        row = tl.program_id(1)  # of batch × heads
        target = tl.program_id(2)
        example = row // heads
        group = heads // key_heads
        key_row = example * key_heads + (row % heads) // group

        queries = first + tl.arange(0, QUERIES)
        columns = tl.arange(0, WIDTH)
        q_at = queries[:, None] * width + columns[None, :]
        q_ok = (queries[:, None] < tokens) & (columns[None, :] < width)
        q_base = row.to(tl.int64) * tokens * width
        k_base = key_row.to(tl.int64) * tokens * width
        dq_base = (target * batch * heads + row).to(tl.int64) * tokens * width
        dk_base = (target * batch * key_heads + key_row).to(tl.int64) * tokens * width
        mask_base = example.to(tl.int64) * mask_stride

        q = tl.load(q_ptr + q_base + q_at, mask=q_ok, other=0.0)
        dq = tl.load(dq_ptr + dq_base + q_at, mask=q_ok, other=0.0)
        last = tokens if MASKED else tl.minimum(first + QUERIES, tokens)

        highest = tl.full([QUERIES], float("-inf"), tl.float32)
        denominator = tl.zeros([QUERIES], tl.float32)
        for start in range(0, last, KEYS):
            keys = start + tl.arange(0, KEYS)
            k_at = keys[:, None] * width + columns[None, :]
            k_ok = (keys[:, None] < tokens) & (columns[None, :] < width)
            k = tl.load(k_ptr + k_base + k_at, mask=k_ok, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
            seen = (keys[None, :] < tokens) & (queries[:, None] < tokens)
            if MASKED:
                at = queries[:, None].to(tl.int64) * tokens + keys[None, :]
                seen = seen & (tl.load(mask_ptr + mask_base + at, mask=seen, other=0) != 0)
            else:
                seen = seen & (keys[None, :] <= queries[:, None])
            scores = tl.where(seen, scores, float("-inf"))
            now = tl.maximum(highest, tl.max(scores, 1))
            safe = tl.where(now == float("-inf"), 0.0, now)
            before = tl.where(highest == float("-inf"), 0.0, tl.exp(highest - safe))
            denominator = denominator * before + tl.sum(tl.exp(scores - safe[:, None]), 1)
            highest = now

        level = tl.where(highest == float("-inf"), 0.0, highest)
        inverse = tl.where(denominator > 0, 1.0 / denominator, 0.0)
        total = tl.zeros([QUERIES], tl.float32)
        moved = tl.zeros([QUERIES, WIDTH], tl.float32)
        for start in range(0, last, KEYS):
            keys = start + tl.arange(0, KEYS)
            k_at = keys[:, None] * width + columns[None, :]
            k_ok = (keys[:, None] < tokens) & (columns[None, :] < width)
            k = tl.load(k_ptr + k_base + k_at, mask=k_ok, other=0.0)
            dk = tl.load(dk_ptr + dk_base + k_at, mask=k_ok, other=0.0)
            v = tl.load(v_ptr + k_base + k_at, mask=k_ok, other=0.0)
            dv = tl.load(dv_ptr + dk_base + k_at, mask=k_ok, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
            seen = (keys[None, :] < tokens) & (queries[:, None] < tokens)
            if MASKED:
                at = queries[:, None].to(tl.int64) * tokens + keys[None, :]
                seen = seen & (tl.load(mask_ptr + mask_base + at, mask=seen, other=0) != 0)
            else:
                seen = seen & (keys[None, :] <= queries[:, None])
            probs = tl.where(seen, tl.exp(scores - level[:, None]), 0.0) * inverse[:, None]
            slope = tl.dot(dq, tl.trans(k), input_precision=PRECISION)
            slope = tl.dot(q, tl.trans(dk), slope, input_precision=PRECISION) * scale
            weights = probs * slope
            total += tl.sum(weights, 1)
            moved = tl.dot(weights.to(v.dtype), v, moved, input_precision=PRECISION)
            moved = tl.dot(probs.to(v.dtype), dv, moved, input_precision=PRECISION)

        o = tl.load(o_ptr + q_base + q_at, mask=q_ok, other=0.0).to(tl.float32)
        moved -= total[:, None] * o
        tl.store(out_ptr + dq_base + q_at, moved.to(out_ptr.dtype.element_ty), mask=q_ok)


def is_usable(query: Tensor) -> bool:
    """Return whether the kernel takes these values [batch, heads, tokens, width]."""
    return (
        query.is_cuda
        and find_spec("triton") is not None
        and query.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and query.shape[-1] <= WIDEST
    )


def derivative_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    mask: Tensor | None,
    scale: float,
    tangents: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Return ȯ [targets, batch, heads, tokens, width]; see :func:`infra_lib.attention.blocks.derivative`."""
    batch, heads, tokens, width = query.shape
    key_heads = key.shape[1]
    moved_query, moved_key, moved_value = (part.to(query.dtype).contiguous() for part in tangents)
    result = torch.empty_like(moved_query)
    if mask is not None:
        mask = mask.expand(batch, 1, tokens, tokens).contiguous().view(torch.uint8)
    narrow = query.dtype != torch.float32
    wide: Any = triton.next_power_of_2(max(16, width))
    queries, keys = (64, 64) if narrow and wide <= 128 else (32, 32)
    grid = (triton.cdiv(tokens, queries), batch * heads, len(moved_query))
    _kernel[grid](
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        output.contiguous(),
        moved_query,
        moved_key,
        moved_value,
        result if mask is None else mask,
        result,
        scale,
        batch,
        heads,
        key_heads,
        tokens,
        width,
        tokens * tokens,
        MASKED=mask is not None,
        PRECISION="tf32" if narrow else "ieee",
        QUERIES=queries,
        KEYS=keys,
        WIDTH=wide,
        num_warps=4,
        num_stages=3 if wide <= 64 else 2,  # what fits in shared memory
    )
    return result
