"""Joining the processes that torchrun started, and saying once for all that one of them failed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from infra_lib.errors import ParameterError, ProcessError

TIMEOUT = timedelta(hours=1)
"""How long a process waits for the others. One that *ends* is noticed at once; this is for one that hangs,
and must be longer than the largest eigendecomposition, which the others may have to wait for."""

_CPU = torch.device("cpu")
_store: Any = None


def size() -> int:
    """Return the number of processes on this job, 1 outside of ``torchrun``."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Return whether this is the process that writes files and shows progress."""
    return rank() == 0


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that ``torchrun`` started, if it did, and yield this process's device.

    Leaving it well waits until all have; leaving it by an error does not wait for anybody.

    Raises
    ------
    ParameterError
        For a CUDA device number, or more processes than CUDA devices.
    ProcessError
        Where the others do not come.
    """
    global _store
    # Some clusters set one of these variables for purposes of their own; torchrun sets all.
    started = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    processes = int(os.environ["WORLD_SIZE"]) if started else 1
    if processes == 1 or dist.is_initialized():
        yield device
        return
    with together():
        _store, number, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
    cuda = device.startswith("cuda") and torch.cuda.is_available()
    if cuda:
        device = _own_cuda_device(device)
        torch.cuda.set_device(device)
    with together():
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=dist.PrefixStore("infra", _store),
            rank=number,
            world_size=processes,
            timeout=TIMEOUT,
        )
    yield device
    with together():
        dist.barrier()
        dist.destroy_process_group()


def _own_cuda_device(device: str) -> str:
    """Return the device of this process's number on this machine."""
    if device != "cuda":
        raise ParameterError(
            "--device", device, "cuda without a number under torchrun: each process takes a device"
        )
    here, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > devices:
        raise ParameterError("--nproc-per-node", here, f"at most the {devices} CUDA devices of this machine")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def wire() -> torch.device:
    """Return the device that tensors must be on to be sent."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else _CPU


def speaks_first() -> bool:
    """Return whether no other process has reported an error yet; from then on this one has.

    Alone, a process always speaks.
    """
    if _store is None:
        return True
    try:
        return bool(_store.add("infra/failed", 1) == 1)
    except RuntimeError:  # the store went with the process that held it
        return True


@contextmanager
def together() -> Iterator[None]:
    """Turn a broken or silent connection to the other processes into one sentence."""
    try:
        yield
    except RuntimeError as error:  # dist.DistError and its kin are RuntimeErrors
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = re.sub(r"^\[[^\]]*\]\s*", "", lines[0]).split(". ")[0]
        raise ProcessError(
            f"another process ended, or did not answer within {TIMEOUT}; what finished is kept ({reason})"
        ) from error
