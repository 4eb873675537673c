"""Which attention a pass over a batch takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from infra_lib.attention.masks import known_padding, register_masks
from infra_lib.attention.rule import NAME, register
from infra_lib.models import Batch

LONG = 1024
"""Padded tokens of a row from which reverse-mode passes on the CPU leave eager attention."""


@contextmanager
def fused_attention(model: Any, batch: Batch) -> Iterator[None]:
    """Use PyTorch's fused attention (SDPA) for a reverse-mode pass over long rows, or on a GPU.

    Eager attention keeps [heads, tokens, tokens] for every layer until the backward pass; fused attention
    keeps none of it.
    """
    register_masks("sdpa")
    with _implementation(model, "sdpa", batch, forward_mode=False):
        yield


@contextmanager
def forward_attention(model: Any, batch: Batch) -> Iterator[None]:
    """Use attention with a rule for forward mode for a pass on a GPU.

    Where the model's attention is more than softmax(scale · q kᵀ) v (scores with a soft cap, sinks), eager
    attention stays.
    """
    register()
    with _implementation(model, NAME, batch, forward_mode=True):
        yield


def leaves_eager(tokens: int, *, on_gpu: bool, forward_mode: bool = False) -> bool:
    """Return whether a pass leaves eager attention, where the model's attention exists in fused form.

    Parameters
    ----------
    tokens
        Padded tokens of a row.
    on_gpu, forward_mode
        Where the pass runs, and in which mode.
    """
    return on_gpu or (tokens >= LONG and not forward_mode)


def can_be_fused(model: Any) -> bool:
    """Return whether a model's attention exists in fused form, and can be chosen by name.

    Soft-capped scores (Gemma 2) do not, and some models (Falcon) have their own.
    """
    capped = getattr(model.config, "attn_logit_softcapping", None) is not None
    return bool(getattr(model, "_supports_sdpa", False)) and _can_be_chosen(model.__class__) and not capped


@cache
def _can_be_chosen(kind: type) -> bool:
    # transformers reads the class's source file to answer, and every batch asks.
    return bool(getattr(kind, "_can_set_attn_implementation", bool)())


def _leaves(model: Any, batch: Batch, *, forward_mode: bool) -> bool:
    if getattr(model.config, "_attn_implementation", None) != "eager":
        return False
    ids = batch.input_ids
    return leaves_eager(ids.shape[1], on_gpu=ids.is_cuda, forward_mode=forward_mode) and can_be_fused(model)


@contextmanager
def _implementation(model: Any, name: str, batch: Batch, *, forward_mode: bool) -> Iterator[None]:
    if not _leaves(model, batch, forward_mode=forward_mode):
        yield
        return
    model.set_attn_implementation(name)
    try:
        with known_padding(batch.padded):
            yield
    finally:
        model.set_attn_implementation("eager")
