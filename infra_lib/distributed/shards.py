"""Shards of examples, and sums and values put together over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from infra_lib.distributed.group import rank, size, together, wire
from infra_lib.errors import ParameterError
from infra_lib.models import Encoded

Item = TypeVar("Item")


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
        tensor = torch.from_numpy(values).to(wire())
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


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in place; all give them in the same order.

    A tensor that is not where the processes exchange theirs travels there and back.
    """
    if size() == 1:
        return
    with together():
        for tensor in tensors:
            if tensor.is_contiguous() and tensor.device.type == torch.device(wire()).type:
                dist.all_reduce(tensor)
            else:
                whole = tensor.to(wire()).contiguous()
                dist.all_reduce(whole)
                tensor.copy_(whole)


def add_up_number(number: int) -> int:
    """Return the sum of a whole number over all processes."""
    if size() == 1:
        return number
    tensor = torch.tensor([number], dtype=torch.int64, device=wire())
    add_up([tensor])
    return int(tensor)
