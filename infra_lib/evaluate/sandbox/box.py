"""One sandboxed process: start it, talk to it, watch it, and end all that it started."""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from infra_lib.evaluate.sandbox.driver import OUT_OF_MEMORY
from infra_lib.evaluate.sandbox.isolate import Isolation
from infra_lib.evaluate.sandbox.outcome import Limits, Outcome
from infra_lib.evaluate.sandbox.watch import Tree, first_of_namespace


@cache
def compiled(*modules: ModuleType) -> list[tuple[str, Any]]:
    """Return names and code of modules, as the loader inside a sandbox takes them."""
    sources = [(module.__name__, Path(str(module.__file__))) for module in modules]
    return [(name, compile(path.read_text("utf-8"), path.name, "exec")) for name, path in sources]


_START = 0.25
"""Seconds of processor time that the start of an interpreter may take."""


class Box:
    """A sandboxed process, from its start to its end.

    Parameters
    ----------
    isolation, limits
        How it is walled off and what it may use.
    modules
        Code that the interpreter inside gets; ``main`` of the last is called with the request.
    request
        What that code is told.
    stdin
        Bytes that follow on its standard input.
    pass_on
        Descriptors that it inherits.
    folder
        Where a process without namespaces works.
    """

    def __init__(
        self,
        isolation: Isolation,
        limits: Limits,
        modules: Sequence[ModuleType],
        request: Mapping[str, Any],
        *,
        stdin: bytes = b"",
        pass_on: Sequence[int] = (),
        folder: str = "/",
    ) -> None:
        self.isolation, self.limits = isolation, limits
        self.stdout, self.stderr, self.answers = bytearray(), bytearray(), bytearray()
        self._report, self._status = bytearray(), bytearray()
        self._readers: dict[int, bytearray] = {}
        self._writers: dict[int, memoryview] = {}
        self.tree: Tree | None = None
        self.seconds = 0.0
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            report, status = _pipe(ours, theirs), _pipe(ours, theirs)
            rules = isolation.filter
            filter_from = None if rules is None else _pipe_with(rules, theirs)
            told = {
                **request,
                "modules": compiled(*modules),
                "limits": vars(limits),
                "user": isolation.user(),
                "report": report[1],
            }
            message = marshal.dumps(told)
            inherited = [report[1], status[1], *pass_on, *([] if filter_from is None else [filter_from])]
            command = isolation.command(limits, status=status[1], filter_from=filter_from)
            self.process = _start(command, inherited, folder)
            ours.pop_all()
        self.started = time.monotonic()
        self.read_from(report[0], self._report)
        self.read_from(status[0], self._status)
        self._take_over_streams(b"%08x" % len(message) + message + stdin)
        if isolation.kind == "process":
            self.tree = Tree(self.process.pid)
        self._handle = os.pidfd_open(self.process.pid) if hasattr(os, "pidfd_open") else None

    def _take_over_streams(self, message: bytes) -> None:
        """Attend to the standard streams here rather than through the objects of ``subprocess``."""
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self.read_from(os.dup(self.process.stdout.fileno()), self.stdout)
        self.read_from(os.dup(self.process.stderr.fileno()), self.stderr)
        self.write_to(os.dup(self.process.stdin.fileno()), message)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()

    def read_from(self, descriptor: int, into: bytearray) -> None:
        """Collect what comes from a descriptor, which is closed at its end."""
        os.set_blocking(descriptor, False)
        self._readers[descriptor] = into

    def write_to(self, descriptor: int, data: bytes) -> None:
        """Send data to a descriptor, which is closed after it."""
        os.set_blocking(descriptor, False)
        self._writers[descriptor] = memoryview(data)

    @property
    def begun(self) -> bool:
        """Whether the limits are taken, and the program's own time runs."""
        return self._report.startswith(b"begun")

    @property
    def written(self) -> int:
        """Bytes that have come from inside, on all ways out."""
        return len(self.stdout) + len(self.stderr) + len(self.answers) + len(self._report)

    @property
    def exited(self) -> bool:
        """Whether the first process has ended."""
        return self.process.poll() is not None

    def register(self, selector: selectors.BaseSelector) -> None:
        """Let a selector tell when there is something to read, to write, or an end."""
        for descriptor in self._readers:
            selector.register(descriptor, selectors.EVENT_READ, self)
        for descriptor in self._writers:
            selector.register(descriptor, selectors.EVENT_WRITE, self)
        if self._handle is not None:
            selector.register(self._handle, selectors.EVENT_READ, self)

    def serve(self, descriptor: int) -> bool:
        """Read from or write to a descriptor that is ready; return whether it is still of use."""
        if descriptor in self._writers:
            with contextlib.suppress(BlockingIOError):
                try:
                    sent = os.write(descriptor, self._writers[descriptor])
                    self._writers[descriptor] = self._writers[descriptor][sent:]
                except BrokenPipeError:
                    self._writers[descriptor] = memoryview(b"")
            if self._writers[descriptor]:
                return True
            del self._writers[descriptor]
            os.close(descriptor)
            return False
        if descriptor in self._readers:
            try:
                part = os.read(descriptor, 65536)
            except BlockingIOError:
                return True
            self._readers[descriptor] += part
            if not part:
                del self._readers[descriptor]
                os.close(descriptor)
            return bool(part)
        return False  # the handle of the process: it has ended

    def look(self) -> str | None:
        """Return the status of a program that uses too much, else None."""
        if self.written > self.limits.output_bytes:
            return "output"
        return self.tree.look(self.limits) if self._find_tree() and self.tree else None

    def _find_tree(self) -> bool:
        """Learn from bubblewrap which process is the first in the namespace."""
        if self.tree is None and b"}" in self._status:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                first = int(json.loads(self._status[: self._status.index(b"}") + 1])["child-pid"])
                if first_of_namespace(first):
                    self.tree = Tree(first, namespaced=True)
        return self.tree is not None

    def end(self) -> None:
        """End every process of the sandbox, wait until they are gone, and read what they left."""
        self.seconds = self.seconds or time.monotonic() - self.started
        self._drain()
        if self._find_tree() and self.tree:
            self.tree.kill()
        if self.isolation.kind == "process" or self.tree is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._drain()
        for descriptor in (*self._readers, *self._writers):
            os.close(descriptor)
        if self._handle is not None:
            os.close(self._handle)
        self._readers, self._writers, self._handle = {}, {}, None

    def _drain(self) -> None:
        for descriptor in list(self._readers):
            while len(self._readers.get(descriptor, b"")) <= self.limits.output_bytes:
                ready, _, _ = select.select([descriptor], [], [], 0)
                if not ready or not self.serve(descriptor):
                    break

    def outcome(self, ended: str | None) -> Outcome:
        """Return how the program ended; ``ended`` is the status of one that was ended from outside."""
        return Outcome(
            status=ended or self._status_of(self.process.returncode),
            stdout=self._text(self.stdout),
            stderr=self._text(self.stderr),
            seconds=self.seconds,
            peak_memory_mb=max([self.tree.peak_kib if self.tree else 0, *self._reported()]) / 1024,
            isolation=self.isolation.kind,
        )

    def _status_of(self, code: int) -> str:
        signalled = -code if code < 0 else code - 128
        if len(self.stdout) + len(self.stderr) > self.limits.output_bytes:
            return "output"
        # The interpreter's start counts for the kernel, and not for the program's own time.
        late = self.seconds >= self.limits.cpu_seconds - _START
        if signalled == signal.SIGXCPU or (signalled == signal.SIGKILL and late):
            return "timeout"
        if 0 < signalled <= signal.NSIG:
            return "killed"
        if code == OUT_OF_MEMORY:
            return "memory"
        return "error" if code else "ok"

    def _reported(self) -> list[int]:
        """Return what the program's process said of its peak memory, in KiB, if it can be so."""
        most = self.limits.memory_mb * 1024
        return [min(int(line), most) for line in self._report.splitlines()[:10] if line.isdigit()]

    def _text(self, data: bytearray) -> str:
        return data[: self.limits.output_bytes].decode("utf-8", errors="replace")


def _start(command: list[str], inherited: Sequence[int], folder: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={"PYTHONHASHSEED": "0"},
        pass_fds=inherited,
        start_new_session=True,
        bufsize=0,
    )


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    """Return a pipe whose ends are closed with the two stacks."""
    reading, writing = os.pipe()
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    return reading, writing


def _pipe_with(data: bytes, closing: contextlib.ExitStack) -> int:
    """Return a descriptor from which some data, less than a pipe holds, can be read."""
    reading, writing = os.pipe()
    closing.callback(os.close, reading)
    os.write(writing, data)
    os.close(writing)
    return reading
