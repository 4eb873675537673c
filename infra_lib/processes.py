"""Processes that end with the one that started them, and locks that only one process holds.

A run is a chain: ``infra run`` starts Snakemake, which starts ``infra stage``, which starts a
kernel, which starts workers. Wherever the chain is cut, what hangs below ends within about
a second, and the lock of a study is free again.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

from infra_lib.errors import InfraError

RUN_VARIABLE = "INFRA_RUN_PROCESS"
"""Environment variable by which ``infra run`` tells the stages that it starts its process id."""

FORCE_VARIABLE = "INFRA_RUN_AGAIN"
"""Environment variable by which it tells them which of them run even where results could be reused."""


def end_with_parent(parent: int) -> None:
    """End this process when its parent ends: by Linux' own means, elsewhere by a watching thread."""
    if sys.platform != "linux":
        end_with_process(parent)
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def end_with_process(pid: int, *, every: float = 0.3) -> None:
    """End this process soon after another one has ended; the kernel below it then ends as well."""
    try:
        watched = psutil.Process(pid)
    except psutil.NoSuchProcess:
        os._exit(1)

    def watch() -> None:
        while _runs(watched):
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def holding(path: Path, what: str, *, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file; the system frees it when this process ends, however that happens.

    Parameters
    ----------
    what
        What is locked, as the start of the sentence "… is being run by process N".
    wait
        Seconds to wait for another process to let go.

    Raises
    ------
    InfraError
        Naming the process that holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait
    with path.open("a+") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    stream.seek(0)
                    raise InfraError(
                        f"{what} is being run by process {stream.read().strip() or 'unknown'}; "
                        "wait for it, or give this run another name with -p study=NAME"
                    ) from None
                time.sleep(0.1)
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C inside the block, so that what is under way is put down in order."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
