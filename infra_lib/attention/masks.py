"""Masks for transformers' fused attention, where the host knows whether a batch is padded.

transformers reads a batch's mask back from the device to find out whether attention needs one. On a GPU the
host then waits for all work before it, and the GPU for the host afterwards. Within :func:`known_padding` the
answer is given instead; outside of it nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from torch import Tensor
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

_padded: ContextVar[bool | None] = ContextVar("padded", default=None)


@cache
def register_masks(name: str) -> None:
    """Let transformers ask here for the masks of the attention of a name."""
    AttentionMaskInterface.register(name, _mask)


@contextmanager
def known_padding(padded: bool) -> Iterator[None]:
    """Answer for the passes of a batch whether it is padded."""
    token = _padded.set(padded)
    try:
        yield
    finally:
        _padded.reset(token)


def _mask(
    *sizes: Any, attention_mask: Tensor | None = None, allow_is_causal_skip: bool = True, **options: Any
) -> Tensor | None:
    padded = _padded.get()
    if padded is False:
        attention_mask = None
    skip = allow_is_causal_skip and not padded
    mask: Tensor | None = sdpa_mask(
        *sizes, attention_mask=attention_mask, allow_is_causal_skip=skip, **options
    )
    return mask
