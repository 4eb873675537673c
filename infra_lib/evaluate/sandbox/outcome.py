"""What a program may use, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes
    ----------
    cpu_seconds, wall_seconds
        Processor time of each process, and time on the clock of all.
    memory_mb
        Address space of each process, and memory in use by all of them together, in MiB.
    file_mb, folder_mb
        Size of any file, and of all files together, in MiB.
    files
        Files and folders.
    open_files
        Open file descriptors of each process.
    processes
        Processes and threads together.
    output_bytes
        Captured output, standard output and error together; more ends the program.
    """

    cpu_seconds: int = 2
    wall_seconds: float = 8.0
    memory_mb: int = 512
    file_mb: int = 1
    folder_mb: int = 8
    files: int = 1000
    open_files: int = 32
    processes: int = 16
    output_bytes: int = 100_000


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes
    ----------
    status
        ``ok``; ``wrong`` (it ended well, and what it answered is not what was expected); ``error`` (it
        raised, or exited with a code); ``timeout``; ``memory``; ``output`` (it wrote too much);
        ``killed`` (by a signal, or by the sandbox for too many processes); ``refused`` (it was not run,
        and ``stderr`` says why).
    stdout, stderr
        What it wrote, capped. Text of a stranger: escape it before showing it.
    seconds
        Time on the clock, from when the sandbox stood to its end.
    peak_memory_mb
        Most memory in use, in MiB, as far as seen: looked at from outside every few hundredths of a
        second, and reported by the program's process as it ends. For people, not for verdicts.
    values
        For :func:`~infra_lib.evaluate.sandbox.call`: what the function returned, else None.
    isolation
        ``bubblewrap`` or ``process``; ``none`` where nothing was run.
    """

    status: str
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    values: list[Any] | None = None
    isolation: str = "none"
