"""Several processes, or GPUs, on one attribution: shards of examples under ``torchrun``.

``torchrun --nproc-per-node=N -m infra_lib.cli attribute …`` starts N processes that run the
same program. Each takes a shard of the examples (:func:`shard`); what is a sum over examples
(covariances, squared gradients, the target's gradient) is added up over the processes
(:func:`add_up`), and what is one value per example is put together again (:meth:`Shard.gather`),
so that every process goes on with the same numbers that one process alone would have, up to the
rounding of sums taken in another order. The first process alone writes files and shows progress.

Outside of ``torchrun`` everything here is the identity. Processes talk by NCCL where the device is
CUDA (one device each) and by gloo on the CPU.

A process that fails says so, once for all, and ends; the others notice a broken connection, or are
ended by ``torchrun``, and stay quiet (:func:`speaks_first`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from infra_lib.errors import DataError, ModelError, ParameterError, ProcessError
from infra_lib.models import Encoded

Item = TypeVar("Item")

TIMEOUT = timedelta(hours=1)
"""How long a process waits for the others. One that *ends* is noticed at once; this is for one that hangs,
and must be longer than the largest eigendecomposition, which the others may have to wait for."""

_CPU = torch.device("cpu")
_store: Any = None


# --- Joining -----------------------------------------------------------------------------


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
    with _together():
        _store, number, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
    cuda = device.startswith("cuda") and torch.cuda.is_available()
    if cuda:
        device = _own_cuda_device(device)
        torch.cuda.set_device(device)
    with _together():
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=dist.PrefixStore("infra", _store),
            rank=number,
            world_size=processes,
            timeout=TIMEOUT,
        )
    yield device
    with _together():
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


def _wire() -> torch.device:
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
def _together() -> Iterator[None]:
    """Turn a broken or silent connection to the other processes into one sentence."""
    try:
        yield
    except RuntimeError as error:  # dist.DistError and its kin are RuntimeErrors
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = re.sub(r"^\[[^\]]*\]\s*", "", lines[0]).split(". ")[0]
        raise ProcessError(
            f"another process ended, or did not answer within {TIMEOUT}; what finished is kept ({reason})"
        ) from error


# --- Shards of examples ------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """A process's part of a list of examples.

    Attributes
    ----------
    rows
        Where its examples stand in the whole list, ascending.
    total
        Length of the whole list.
    """

    rows: tuple[int, ...]
    total: int

    def take(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's part of a list that runs parallel to the examples."""
        return items if len(self.rows) == self.total else [items[row] for row in self.rows]

    def gather(self, values: Mapping[str, Sequence[np.ndarray]]) -> dict[str, list[np.ndarray]]:
        """Return, on every process, the arrays of all examples from those of each shard.

        Parameters
        ----------
        values
            Name to one array [tokens, of any number] per example of this shard. All processes have the
            same names, and arrays of an example have the same length under each.
        """
        if size() == 1:
            return {name: list(arrays) for name, arrays in values.items()}
        lengths = np.zeros(self.total)
        lengths[list(self.rows)] = [len(array) for array in next(iter(values.values()))]
        ends = self._sum(lengths).astype(np.int64).cumsum()
        found = {}
        for name, arrays in values.items():
            flat = np.zeros(ends[-1], dtype=np.float32)
            for row, array in zip(self.rows, arrays, strict=True):
                flat[ends[row] - len(array) : ends[row]] = array
            found[name] = np.split(self._sum(flat), ends[:-1])
        return found

    def gather_rows(self, values: np.ndarray) -> np.ndarray:
        """Return, on every process, values [examples, …] of all from those of this shard, in float64."""
        if size() == 1:
            return values
        whole = np.zeros((self.total, *values.shape[1:]))
        whole[list(self.rows)] = values
        return self._sum(whole)

    @staticmethod
    def _sum(values: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(values).to(_wire())
        add_up([tensor])
        return tensor.cpu().numpy()


def shard(encoded: Sequence[Encoded], *, at_least_one: bool = False) -> Shard:
    """Return this process's part of the examples: parts have like numbers of tokens.

    The longest example not yet given goes to the process with the fewest tokens so far.

    Parameters
    ----------
    at_least_one
        Refuse fewer examples than processes.

    Raises
    ------
    ParameterError
        For a process without an example, where each must have one.
    """
    if size() == 1:
        return Shard(tuple(range(len(encoded))), len(encoded))
    if at_least_one and len(encoded) < size():
        raise ParameterError("--nproc-per-node", size(), f"at most the {len(encoded)} training examples")
    loads = [0] * size()
    mine = []
    for row in sorted(range(len(encoded)), key=lambda i: (-len(encoded[i].input_ids), i)):
        owner = loads.index(min(loads))
        loads[owner] += len(encoded[row].input_ids)
        if owner == rank():
            mine.append(row)
    return Shard(tuple(sorted(mine)), len(encoded))


# --- Sums, work and agreement ------------------------------------------------------------


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in place; all give them in the same order."""
    if size() == 1:
        return
    with _together():
        for tensor in tensors:
            if tensor.is_contiguous():
                dist.all_reduce(tensor)
            else:
                whole = tensor.contiguous()
                dist.all_reduce(whole)
                tensor.copy_(whole)


def add_up_number(number: int) -> int:
    """Return the sum of a whole number over all processes."""
    if size() == 1:
        return number
    tensor = torch.tensor([number], dtype=torch.int64, device=_wire())
    add_up([tensor])
    return int(tensor)


def spread(
    work: Callable[[str, Tensor], tuple[Tensor, ...]], matrices: dict[str, Tensor]
) -> dict[str, tuple[Tensor, ...]]:
    """Apply ``work`` to each named square matrix, every process to some, and return all results on all.

    Processes share by the cube of the matrix's size, what a decomposition costs. Results are float32
    tensors on the matrix's device; a matrix's results are the same numbers on all processes. ``matrices``
    is emptied on the way, so that a matrix and its results do not both stay in memory.
    """
    if size() == 1:
        return {name: work(name, matrices.pop(name)) for name in list(matrices)}
    loads = [0] * size()
    owners: dict[str, int] = {}
    for name in sorted(matrices, key=lambda n: (-len(matrices[n]), n)):
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += len(matrices[name]) ** 3
    names = list(matrices)
    own = {name: work(name, matrices.pop(name)) for name, owner in owners.items() if owner == rank()}
    matrices.clear()
    return {name: _broadcast(own.get(name), owners[name]) for name in names}


def _broadcast(tensors: tuple[Tensor, ...] | None, owner: int) -> tuple[Tensor, ...]:
    """Return the owner's float32 tensors on every process."""
    header = torch.zeros(16, dtype=torch.int64, device=_wire())  # per tensor: dimensions, sizes; 0 ends
    if tensors is not None:
        numbers = [n for tensor in tensors for n in (tensor.dim(), *tensor.shape)]
        header[: len(numbers)] = torch.tensor(numbers)
    with _together():
        dist.broadcast(header, owner)
        numbers = header.tolist()
        found: list[Tensor] = []
        at = 0
        while numbers[at]:
            shape = numbers[at + 1 : at + 1 + numbers[at]]
            at += 1 + numbers[at]
            tensor = torch.empty(shape, device=_wire()) if tensors is None else tensors[len(found)]
            found.append(tensor.to(_wire(), torch.float32).contiguous())
            dist.broadcast(found[-1], owner)
    return tuple(found)


def check_same(digest: str, what: str) -> None:
    """Raise where processes do not all have the same digest (hexadecimal) of something they read.

    Raises
    ------
    ModelError
        On every process.
    """
    if size() == 1:
        return
    values = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.int64, device=_wire())
    least, most = values.clone(), values.clone()
    with _together():
        dist.all_reduce(least, dist.ReduceOp.MIN)
        dist.all_reduce(most, dist.ReduceOp.MAX)
    if not torch.equal(least, most):
        raise ModelError(f"the processes read different {what}; give all of them the same files")


def is_stored(path: Path | None) -> bool:
    """Return whether the main process finds a file, so that all decide alike.

    Raises
    ------
    DataError
        On a process that does not see the file which the main process sees.
    """
    here = path is not None and path.is_file()
    there = add_up_number(int(here and is_main())) > 0
    if there and not here:
        raise DataError(
            str(path), "is seen by the first process only; --out must be on storage that all of them share"
        )
    return there
