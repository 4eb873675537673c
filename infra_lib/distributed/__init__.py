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

from infra_lib.distributed.group import is_main, process_group, rank, size, speaks_first
from infra_lib.distributed.shards import Shard, add_up, add_up_number, shard
from infra_lib.distributed.work import check_same, is_stored, spread

__all__ = [
    "Shard",
    "add_up",
    "add_up_number",
    "check_same",
    "is_main",
    "is_stored",
    "process_group",
    "rank",
    "shard",
    "size",
    "speaks_first",
    "spread",
]
