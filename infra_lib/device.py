"""What depends on the device: copies that do not wait, precision of products, memory's peaks."""

from __future__ import annotations

import resource
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from infra_lib.errors import ParameterError

Item = TypeVar("Item")

BEHIND = 2
"""Batches that a GPU may have ahead of it before the host reads what the first of them gave."""


def check_device(device: str, parameter: str = "device") -> None:
    """Raise where a GPU is asked for that is not there.

    Raises
    ------
    ParameterError
        Naming ``parameter``.
    """
    if not device.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise ParameterError(parameter, device, "cpu on this machine, which has no CUDA device")
    number, there = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= there:
        raise ParameterError(parameter, device, f"cuda, or cuda:0 to cuda:{there - 1} on this machine")


def to_device(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Return a tensor on a device; from the CPU to a GPU it travels from pinned memory, and nobody waits."""
    target = torch.device(device)
    if target.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(target, non_blocking=True)


def read_back(computed: Iterable[tuple[Tensor, Item]]) -> Iterator[tuple[np.ndarray, Item]]:
    """Yield batches' results on the host, in order, while a GPU goes on with the batches after them.

    Parameters
    ----------
    computed
        Pairs of a tensor on any device and what it belongs to.
    """
    waiting: deque[tuple[Tensor, torch.cuda.Event | None, Item]] = deque()
    for tensor, item in computed:
        waiting.append((*_towards_host(tensor), item))
        if len(waiting) > BEHIND or not tensor.is_cuda:
            yield _arrived(*waiting.popleft())
    while waiting:
        yield _arrived(*waiting.popleft())


def _towards_host(tensor: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    if not tensor.is_cuda:
        return tensor, None
    # A copy into memory that is not pinned would wait for everything before it.
    home = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    home.copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(tensor.device))  # its own device need not be the current one
    return home, event


def _arrived(tensor: Tensor, event: torch.cuda.Event | None, item: Item) -> tuple[np.ndarray, Item]:
    if event is None:
        return tensor.numpy(), item
    event.synchronize()
    return tensor.numpy().copy(), item  # pinned memory is scarce


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the first name whose tensor is not finite, None if all are; the device is asked once for all."""
    if not tensors:
        return None
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).tolist()
    return next((name for name, fine in zip(tensors, finite, strict=True) if not fine), None)


@contextmanager
def tf32_products(on: bool) -> Iterator[None]:
    """Let a GPU multiply float32 matrices in its TF32 units, or leave the setting as it is.

    TF32 rounds what is multiplied to 11 significant bits and sums in single precision. On a CPU nothing
    changes.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = before or on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def moment_products(dtype: torch.dtype) -> Iterator[None]:
    """Let single-precision products of rows use a GPU's TF32 units where the model is below single precision.

    Activations and gradients of a bfloat16 model have 8 significant bits, of a float16 model 11, so that
    covariances lose nothing in TF32's 11; where rows are rotated, eigenvectors are rounded to 11 bits.
    Models in single precision keep all of theirs. On a CPU nothing changes.
    """
    with tf32_products(dtype in (torch.bfloat16, torch.float16)):
        yield


_noted = 0


def device_peak() -> int:
    """Return the most bytes that the GPU's allocator held in this process (0 without a GPU)."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def held_free(device: torch.device) -> int:
    """Return the bytes that a GPU's allocator holds and nothing takes."""
    return torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def note_device_peak(found: int) -> None:
    """Remember what a worker's allocator held, for :func:`peak_bytes`."""
    global _noted
    _noted = max(_noted, found)


def peak_bytes() -> dict[str, int]:
    """Return high-water marks in bytes, since the process began.

    ``process`` is resident memory of this process, ``worker`` that of the largest process that it has waited
    for (0 if none), ``device`` what the GPU's allocator held, here or in the worker where it held most.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit,
        "device": max(_noted, device_peak()),
    }
