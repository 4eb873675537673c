"""Run a program that a model wrote, in a process of its own with limits on all that it may use.

The program is hostile until shown otherwise. It runs in a new process that inherits no
environment and no files, in an empty folder, under limits on CPU time, memory, file
size, open files and output, and with a wall clock that ends the whole process group.
Where bubblewrap works (a probe decides, once), the process also has namespaces of its
own: no network, a read-only view of the interpreter and the system libraries and of
nothing else, no view of other processes.

What a program should return is never given to it: the caller compares what came back.

Not covered without bubblewrap: reading world-readable files, using the network, and
leaving processes behind that start a session of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_DRIVER = Path(__file__).with_name("driver.py")


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes
    ----------
    cpu_seconds, wall_seconds
        Processor time and time on the clock.
    memory_mb
        Address space, in MiB.
    file_mb
        Size of any file that it writes, in MiB.
    open_files
        Open file descriptors.
    processes
        Processes and threads of the sandbox's user; enforced where the program runs as its own user.
    output_bytes
        Captured output, standard output and error together; more ends the program.
    """

    cpu_seconds: int = 2
    wall_seconds: float = 5.0
    memory_mb: int = 512
    file_mb: int = 1
    open_files: int = 32
    processes: int = 16
    output_bytes: int = 100_000


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes
    ----------
    status
        ``ok``, ``error`` (it raised, or exited with a code), ``timeout``, ``memory``, ``output`` (it
        wrote too much) or ``killed``.
    stdout, stderr
        What it wrote, capped.
    seconds
        Time on the clock.
    values
        For :func:`call`: what the function returned for each argument list, else None.
    isolation
        ``bubblewrap`` or ``process``.
    """

    status: str
    stdout: str
    stderr: str
    seconds: float
    values: list[Any] | None = None
    isolation: str = "process"


def run(
    program: str, *, stdin: str = "", limits: Limits | None = None, files: Mapping[str, str] | None = None
) -> Outcome:
    """Run a program as a script.

    Parameters
    ----------
    program
        Python source.
    stdin
        What it reads from standard input.
    files
        Small text files to put into its folder, by plain name.
    """
    request = {"program": program, "stdin": stdin, "files": dict(files or {})}
    return _execute(request, limits or Limits())


def call(
    program: str, function: str, arguments: Sequence[Sequence[Any]], *, limits: Limits | None = None
) -> Outcome:
    """Define ``function`` by running ``program``, then call it on each argument list.

    Returns
    -------
    Outcome
        With ``values``, one per argument list, where the status is ``ok``. Values travel as JSON, so
        tuples come back as lists.
    """
    request = {"program": program, "function": function, "arguments": list(arguments), "files": {}}
    return _execute(request, limits or Limits())


@cache
def isolation() -> str:
    """Return ``bubblewrap`` where it works on this machine, else ``process``."""
    if shutil.which("bwrap") is None:
        return "process"
    command = [*_bubblewrap(), *_interpreter(), "-c", "print(6 * 7)"]
    try:
        probe = subprocess.run(command, capture_output=True, text=True, timeout=10, env={}, check=False)
    except (OSError, subprocess.SubprocessError):
        return "process"
    return "bubblewrap" if probe.stdout.strip() == "42" else "process"


def _interpreter() -> list[str]:
    """Return the base interpreter (not the environment's), isolated: no site, no user paths, no bytecode."""
    base = Path(getattr(sys, "_base_executable", sys.executable) or sys.executable).resolve()
    return [str(base), "-I", "-S", "-B"]


def _bubblewrap() -> list[str]:
    """Return the bubblewrap command: new namespaces, read-only system, empty folder, nobody as user."""
    visible = ["/usr", "/lib", "/lib64", "/bin", sys.base_prefix, sysconfig.get_paths()["stdlib"]]
    binds = [part for path in dict.fromkeys(visible) for part in ("--ro-bind-try", path, path)]
    return [
        "bwrap",
        "--unshare-all",
        "--uid",
        "65534",
        "--gid",
        "65534",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        *binds,
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--size",
        str(8 * 2**20),
        "--tmpfs",
        "/tmp",
        "--ro-bind",
        str(_DRIVER),
        "/driver.py",
        "--chdir",
        "/tmp",
        "--clearenv",
    ]


def _execute(request: dict[str, Any], limits: Limits) -> Outcome:
    kind = isolation()
    request["limits"] = vars(limits) | {"own_user": kind == "bubblewrap"}
    with tempfile.TemporaryDirectory(prefix="infra-sandbox-") as folder:
        if kind == "bubblewrap":
            command = [*_bubblewrap(), *_interpreter(), "/driver.py"]
        else:
            command = [*_interpreter(), str(_DRIVER)]
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            stdout, stderr, ended = _talk(process, json.dumps(request).encode(), limits)
        finally:
            _end(process)
        seconds = time.perf_counter() - started
    return _read(process.returncode, stdout, stderr, ended, seconds, kind, "function" in request)


def _talk(
    process: subprocess.Popen[bytes], request: bytes, limits: Limits
) -> tuple[bytes, bytes, str | None]:
    """Send the request and collect output until the process ends, takes too long or says too much."""
    assert process.stdin
    assert process.stdout
    assert process.stderr
    collected = {process.stdout: bytearray(), process.stderr: bytearray()}
    deadline = time.monotonic() + limits.wall_seconds
    to_send = memoryview(request)
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        for stream in collected:
            selector.register(stream, selectors.EVENT_READ)
        while len(selector.get_map()) > (
            process.stdin in {key.fileobj for key in selector.get_map().values()}
        ):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return bytes(collected[process.stdout]), bytes(collected[process.stderr]), "timeout"
            for key, _ in selector.select(remaining):
                if key.fileobj is process.stdin:
                    to_send = _send(selector, process, to_send)
                    continue
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                collected[key.fileobj] += chunk  # type: ignore[index]
                if sum(map(len, collected.values())) > limits.output_bytes:
                    return bytes(collected[process.stdout]), bytes(collected[process.stderr]), "output"
    return bytes(collected[process.stdout]), bytes(collected[process.stderr]), None


def _send(
    selector: selectors.BaseSelector, process: subprocess.Popen[bytes], to_send: memoryview
) -> memoryview:
    assert process.stdin
    try:
        to_send = to_send[os.write(process.stdin.fileno(), to_send) :]
    except BrokenPipeError:
        to_send = to_send[:0]
    if not to_send:
        selector.unregister(process.stdin)
        process.stdin.close()
    return to_send


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process group and collect the process."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.05)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream and not stream.closed:
            stream.close()


def _read(
    code: int, stdout: bytes, stderr: bytes, ended: str | None, seconds: float, kind: str, calls: bool
) -> Outcome:
    out, err = (text.decode("utf-8", errors="replace") for text in (stdout, stderr))
    if ended:
        return Outcome(ended, out, err, seconds, isolation=kind)
    if code in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
        return Outcome("timeout", out, err, seconds, isolation=kind)
    if code < 0 or code >= 128:
        return Outcome("killed", out, err, seconds, isolation=kind)
    if "MemoryError" in err[-400:]:
        return Outcome("memory", out, err, seconds, isolation=kind)
    if code:
        return Outcome("error", out, err, seconds, isolation=kind)
    if not calls:
        return Outcome("ok", out, err, seconds, isolation=kind)
    try:
        values = json.loads(out)
    except (ValueError, RecursionError):
        return Outcome("error", out, err, seconds, isolation=kind)
    return Outcome("ok", "", err, seconds, values if isinstance(values, list) else None, isolation=kind)
