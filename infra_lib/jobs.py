"""Run independent pieces of work in parallel processes, keeping each as it finishes.

Small models gain little from threads within one run and much from whole runs side by
side, so every process works with one thread (or ``threads`` of them).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from infra_lib.device import device_peak, note_device_peak
from infra_lib.errors import InfraError, ParameterError
from infra_lib.processes import end_with_parent

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    processes: int = 2,
    threads: int = 1,
    label: str = "runs",
    progress: bool = True,
) -> list[Result]:
    """Apply ``work`` to each job and return the results in the order of the jobs.

    Parameters
    ----------
    work
        An importable function; it stores what must survive an interrupt by itself.
    processes, threads
        Processes side by side, and PyTorch threads in each.

    Raises
    ------
    ParameterError
        For fewer than one process.
    InfraError
        For a worker that was killed from outside.
    Exception
        The first error of a job, after the jobs under way have ended; finished jobs stay stored.
    """
    if processes < 1:
        raise ParameterError("processes", processes, "1 or more")
    results: dict[int, Result] = {}
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(processes, max(1, len(jobs))), context, initializer=_use_threads, initargs=(threads, os.getpid())
    )
    with pool, tqdm(total=len(jobs), desc=label, unit="run", disable=not progress) as bar:
        futures = {pool.submit(_with_peak, work, job): index for index, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                results[futures[future]], peak = future.result()
                note_device_peak(peak)
                bar.update()
        except BrokenProcessPool:
            raise InfraError(
                f"a process that did {label} was killed from outside, often for want of memory; "
                f"what finished is kept (fewer side by side need less: -p processes=1, now {processes})"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [results[index] for index in range(len(jobs))]


def _with_peak(work: Callable[[Job], Result], job: Job) -> tuple[Result, int]:
    return work(job), device_peak()


def _use_threads(threads: int, parent: int) -> None:
    """Set up a worker: its thread count, and an end when the parent is killed outright."""
    import torch

    torch.set_num_threads(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    end_with_parent(parent)
