"""Which attention a pass over a batch takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    long = batch.input_ids.is_cuda or batch.input_ids.shape[1] >= LONG
    with _implementation(model, "sdpa", usable=long and _usable(model)):
        yield


@contextmanager
def forward_attention(model: Any, batch: Batch) -> Iterator[None]:
    """Use attention with a rule for forward mode for a pass on a GPU.

    Where the model's attention is more than softmax(scale · q kᵀ) v (scores with a soft cap, sinks), eager
    attention stays.
    """
    register()
    with _implementation(model, NAME, usable=batch.input_ids.is_cuda and _usable(model)):
        yield


def can_be_fused(model: Any) -> bool:
    """Return whether a model's attention exists in fused form, and can be chosen by name.

    Soft-capped scores (Gemma 2) do not, and some models (Falcon) have their own.
    """
    capped = getattr(model.config, "attn_logit_softcapping", None) is not None
    chosen = getattr(model, "_can_set_attn_implementation", bool)
    return bool(getattr(model, "_supports_sdpa", False)) and bool(chosen()) and not capped


def _usable(model: Any) -> bool:
    return getattr(model.config, "_attn_implementation", None) == "eager" and can_be_fused(model)


@contextmanager
def _implementation(model: Any, name: str, *, usable: bool) -> Iterator[None]:
    if not usable:
        yield
        return
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation("eager")
