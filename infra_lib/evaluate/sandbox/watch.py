"""What a sandbox's processes use together, read from outside.

Limits of the kernel count each process; sixteen of them may use sixteen times as much. This
looks at the whole tree from the parent, where no program can interfere.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

from infra_lib.evaluate.sandbox.outcome import Limits

_KEPT = 4
"""Processes that are the sandbox's own (bubblewrap's, and one that is ending)."""


class Tree:
    """A process and all its descendants.

    Parameters
    ----------
    root
        Process id: of the first process in the namespace, or of the program itself.
    namespaced
        Whether the root is the first process of a process namespace; then its end is the end of all.
    """

    def __init__(self, root: int, *, namespaced: bool = False) -> None:
        self.root, self.namespaced = root, namespaced
        self.peak_kib = 0
        self.handle: int | None = None
        with contextlib.suppress(OSError, AttributeError):
            self.handle = os.pidfd_open(root)

    def processes(self) -> list[int]:
        """Return the process ids, root first."""
        found = [self.root]
        for process in found:
            with contextlib.suppress(OSError):
                for thread in os.listdir(f"/proc/{process}/task"):
                    children = Path(f"/proc/{process}/task/{thread}/children").read_bytes()
                    found += map(int, children.split())
        return found

    def look(self, limits: Limits) -> str | None:
        """Return the status of a program that uses too much, else None."""
        processes = self.processes()
        used, threads = 0, 0
        for process in processes:
            values = _status(process)
            used += values["VmRSS"] + values["VmSwap"]
            threads += values["Threads"]
        self.peak_kib = max(self.peak_kib, used)
        if used > limits.memory_mb * 1024:
            return "memory"
        if threads > limits.processes + _KEPT:
            return "killed"
        if self.namespaced and _files(self.root) > limits.files:
            return "output"
        return None

    def kill(self) -> None:
        """End all processes and wait until they are gone.

        Without a namespace, those that left the tree by losing their parent are not found.
        """
        processes = [] if self.namespaced else self.processes()
        for process in processes:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if self.handle is None:
            return
        # The kernel ends a namespace's first process after all others in it, so this waits for them too.
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        select.select([self.handle], [], [], 5)
        os.close(self.handle)
        self.handle = None


def first_of_namespace(process: int) -> bool:
    """Return whether a process is the first in a namespace below this one, and so may be ended with it.

    Its number may be another's by now, if it has ended.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text("utf-8", "replace").splitlines():
            if line.startswith("NSpid:"):
                numbers = line.split()[1:]
                return len(numbers) > 1 and numbers[-1] == "1"
    return False


def _status(process: int) -> dict[str, int]:
    """Return memory in KiB and threads of a process; zeros where it has ended."""
    values = {"VmRSS": 0, "VmSwap": 0, "Threads": 0}
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{process}/status").read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name in values:
                values[name] = int(value.split()[0])
    return values


def _files(process: int) -> int:
    """Return how many files the sandbox's folder holds."""
    try:
        folder = os.statvfs(f"/proc/{process}/root/tmp")
    except OSError:
        return 0
    return folder.f_files - folder.f_ffree
