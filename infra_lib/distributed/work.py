"""Work that processes share out, and what they must agree on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from infra_lib.distributed.group import is_main, rank, size, together, wire
from infra_lib.distributed.shards import add_up_number
from infra_lib.errors import DataError, ModelError

SMALL, STREAMS = 8192, 3
"""Sides up to which matrices of a GPU are worked on several at a time, and how many."""


def spread(
    work: Callable[[str, Tensor], tuple[Tensor, ...]], matrices: dict[str, Tensor]
) -> dict[str, tuple[Tensor, ...]]:
    """Apply ``work`` to each named square matrix, every process to some, and return all results on all.

    Processes share by the cube of the matrix's size, what a decomposition costs. Results are float32
    tensors, and a matrix's results are the same numbers on all processes.

    Parameters
    ----------
    matrices
        Taken out one by one, so that a matrix and its results do not both stay in memory.
    """
    if size() == 1:
        if matrices and all(matrix.is_cuda and len(matrix) <= SMALL for matrix in matrices.values()):
            return _in_streams(work, matrices)
        return {name: work(name, matrices.pop(name)) for name in list(matrices)}
    loads = [0] * size()
    owners: dict[str, int] = {}
    for name in sorted(matrices, key=lambda n: (-len(matrices[n]), n)):
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += len(matrices[name]) ** 3
    names, own = list(matrices), {}
    for name in names:
        matrix = matrices.pop(name)
        if owners[name] == rank():
            own[name] = work(name, matrix)
    return {name: _broadcast(own.pop(name, None), owners[name]) for name in names}


def _in_streams(
    work: Callable[[str, Tensor], tuple[Tensor, ...]], matrices: dict[str, Tensor]
) -> dict[str, tuple[Tensor, ...]]:
    """Apply ``work`` to matrices of a GPU, some at a time: one alone leaves much of it idle.

    Each thread has one stream for all its matrices: every stream that a product runs on keeps a workspace.
    """
    # PyTorch loads its CUDA linear algebra at the first call, which two threads must not make at once.
    torch.linalg.eigh(torch.eye(2, device=next(iter(matrices.values())).device))
    torch.cuda.synchronize()
    own = threading.local()

    def start() -> None:
        own.stream = torch.cuda.Stream()

    def one(name: str) -> tuple[Tensor, ...]:
        with torch.cuda.stream(own.stream):
            found = work(name, matrices.pop(name))
            own.stream.synchronize()
            return found

    names = list(matrices)
    with ThreadPoolExecutor(STREAMS, initializer=start) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def _broadcast(tensors: tuple[Tensor, ...] | None, owner: int) -> tuple[Tensor, ...]:
    """Return the owner's float32 tensors on every process."""
    header = torch.zeros(16, dtype=torch.int64, device=wire())  # per tensor: dimensions, sizes; 0 ends
    if tensors is not None:
        numbers = [n for tensor in tensors for n in (tensor.dim(), *tensor.shape)]
        header[: len(numbers)] = torch.tensor(numbers)
    with together():
        dist.broadcast(header, owner)
        numbers = header.tolist()
        found: list[Tensor] = []
        at = 0
        while numbers[at]:
            shape = numbers[at + 1 : at + 1 + numbers[at]]
            at += 1 + numbers[at]
            tensor = torch.empty(shape, device=wire()) if tensors is None else tensors[len(found)]
            found.append(tensor.to(wire(), torch.float32).contiguous())
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
    values = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.int64, device=wire())
    least, most = values.clone(), values.clone()
    with together():
        dist.all_reduce(least, dist.ReduceOp.MIN)
        dist.all_reduce(most, dist.ReduceOp.MAX)
    if not torch.equal(least, most):
        raise ModelError(f"the processes read different {what}; give all of them the same files")


_PATIENCE = 60.0
"""Seconds after which a network's file system shows one machine what another one wrote."""


def is_stored(path: Path) -> bool:
    """Return whether the main process finds a file, so that all decide alike.

    Raises
    ------
    DataError
        On a process that does not see the file which the main process sees.
    """
    # The sum comes first: what the main process wrote before it, the others look for after it.
    if not add_up_number(int(is_main() and path.is_file())):
        return False
    patience = _PATIENCE
    while not path.is_file():
        if patience <= 0:
            raise DataError(
                path, "is seen by the first process only; --out must be on storage that all of them share"
            )
        time.sleep(0.5)
        patience -= 0.5
    return True
