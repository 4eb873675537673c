r"""Whether two answers have the same value, by math-verify, with a limit on time and memory.

A model's answer is a stranger's input: ``9^{9^{9^9}}`` keeps a computer algebra system busy for ever,
in a call that no exception interrupts. So math-verify runs in a process of its own that is ended after
some seconds; the answer then counts as not equal. The process is started when it is first needed and
serves all threads, one pair at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
from pathlib import Path

SECONDS = 10.0
"""For one pair of answers; starting the process has a minute."""
LONGEST = 500
"""Characters of an answer that are compared."""

_WORKER = Path(__file__).with_name("verify_worker.py")
_START_SECONDS = 60.0
_LOCK = threading.Lock()
_process: subprocess.Popen[str] | None = None
_owner = 0


def same_value(wanted: str, found: str, *, seconds: float = SECONDS) -> bool:
    """Return whether math-verify finds two answers equal within the time."""
    with _LOCK:
        worker, fresh = _worker()
        assert worker.stdin
        assert worker.stdout
        try:
            worker.stdin.write(json.dumps([wanted[:LONGEST], found[:LONGEST]]) + "\n")
            worker.stdin.flush()
            reply = _line(worker, seconds + (_START_SECONDS if fresh else 0.0))
        except (BrokenPipeError, OSError):
            reply = ""
        if not reply:
            _end()
            return False
        return bool(json.loads(reply))


def _worker() -> tuple[subprocess.Popen[str], bool]:
    """Return the process, and whether it was started just now."""
    global _process, _owner
    # After a fork the pipes belong to the parent.
    if _process is not None and _owner == os.getpid() and _process.poll() is None:
        return _process, False
    _process = subprocess.Popen(
        [sys.executable, "-P", str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )
    _owner = os.getpid()
    return _process, True


def _line(worker: subprocess.Popen[str], seconds: float) -> str:
    """Return the next line of the process, empty where none comes in time."""
    assert worker.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        # One request has one answer, so nothing can wait in the stream's own buffer.
        return worker.stdout.readline() if selector.select(seconds) else ""


def _end() -> None:
    global _process
    if _process is not None:
        with contextlib.suppress(OSError):
            _process.kill()
        _process.wait()
        for stream in (_process.stdin, _process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        _process = None
