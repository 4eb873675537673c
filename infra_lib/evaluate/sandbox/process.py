"""Run a request in a sandbox: a script, calls of a function, or tests that call it."""

from __future__ import annotations

import contextlib
import marshal
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from io import FileIO
from typing import Any

from infra_lib.evaluate.sandbox import driver, judge, wire
from infra_lib.evaluate.sandbox.box import Box
from infra_lib.evaluate.sandbox.isolate import Isolation, SandboxError
from infra_lib.evaluate.sandbox.outcome import Limits, Outcome
from infra_lib.evaluate.sandbox.supervise import supervise

ATTEMPTS = 8
"""Starts of a sandbox before its failure is reported, with pauses of 25 seconds in all: a machine on which
many processes grade at once can fail a few in a row."""

JUDGED = frozenset({"ok", "wrong", "error", "refused"})
"""Verdicts that the tests reach themselves."""


class _NotStarted(Exception):
    """The sandbox did not stand; the program never ran."""


def execute(
    isolation: Isolation,
    limits: Limits,
    *,
    program: str,
    stdin: str = "",
    files: Mapping[str, str] | None = None,
) -> Outcome:
    """Run a program as a script; see :func:`infra_lib.evaluate.sandbox.run`."""

    def attempt() -> Outcome:
        request = {"program": program, "files": dict(files or {}), "calls": None, "answers": None}
        with _folder(isolation) as folder:
            box = Box(
                isolation,
                limits,
                (wire, driver),
                request,
                stdin=stdin.encode("utf-8", "surrogatepass"),
                folder=folder,
            )
            with _ending(box):
                _, ended = supervise([box], lambda: box.exited)
        return _started(box).outcome(ended)

    return _insist(attempt)


def serve_calls(
    isolation: Isolation, limits: Limits, *, program: str, function: str, arguments: Sequence[Sequence[Any]]
) -> Outcome:
    """Call a program's function; see :func:`infra_lib.evaluate.sandbox.call`."""
    messages = [marshal.dumps((function, list(each), {})) for each in arguments]
    calls = b"".join(len(message).to_bytes(4, "big") + message for message in messages)

    def attempt() -> Outcome:
        with contextlib.ExitStack() as closing:
            calls_pipe, answers = _Pipe(closing), _Pipe(closing)
            box = _serving_box(isolation, limits, program, calls_pipe, answers, closing)
            box.write_to(os.dup(calls_pipe.into.fileno()), calls)
            box.read_from(os.dup(answers.out.fileno()), box.answers)
            calls_pipe.close()
            answers.close()
            _, ended = supervise([box], lambda: box.exited)
        outcome = _started(box).outcome(ended)
        if outcome.status != "ok":
            return outcome
        values = _values(bytes(box.answers), len(messages))
        return replace(outcome, status="error") if values is None else replace(outcome, values=values)

    return _insist(attempt)


def _serving_box(
    isolation: Isolation,
    limits: Limits,
    program: str,
    calls: _Pipe,
    answers: _Pipe,
    closing: contextlib.ExitStack,
) -> Box:
    """Start a sandbox that answers calls of a program's functions."""
    ends = calls.out.fileno(), answers.into.fileno()
    request = {"program": program, "files": {}, "calls": ends[0], "answers": ends[1]}
    folder = closing.enter_context(_folder(isolation))
    box = Box(isolation, limits, (wire, driver), request, pass_on=ends, folder=folder)
    closing.enter_context(_ending(box))
    return box


def _values(answers: bytes, expected: int) -> list[Any] | None:
    """Return the value of each call, or None where one raised or the answers are not what was asked for."""
    values = []
    while answers:
        size = int.from_bytes(answers[:4], "big")
        try:
            kind, value, _ = wire.decode(answers[4 : 4 + size])
        except (ValueError, TypeError):
            return None
        if kind != "value":
            return None
        values.append(value)
        answers = answers[4 + size :]
    return values if len(values) == expected else None


def judge_tests(
    isolation: Isolation, limits: Limits, *, program: str, tests: str, setup: str, entry_point: str | None
) -> Outcome:
    """Run tests beside a program; see :func:`infra_lib.evaluate.sandbox.run_tests`."""

    def attempt() -> Outcome:
        with contextlib.ExitStack() as closing:
            calls, answers = _Pipe(closing), _Pipe(closing)
            box = _serving_box(isolation, limits, program, calls, answers, closing)
            passed = calls.into.fileno(), answers.out.fileno()
            judging = {
                "tests": tests,
                "setup": setup,
                "entry_point": entry_point,
                "calls": passed[0],
                "answers": passed[1],
            }
            bench = Box(isolation, limits, (wire, driver, judge), judging, pass_on=passed)
            closing.enter_context(_ending(bench))
            calls.close()
            answers.close()
            culprit, ended = supervise([box, bench], lambda: bench.exited)
            if ended is None and not box.exited and bench.stdout.startswith(b"gone"):
                # Its pipe has closed or says nonsense; let it show how it ends, if it does.
                _, lingering = supervise([box], lambda: box.exited, wall=0.5)
                culprit, ended = (box, "error") if lingering else (None, None)
        return _verdict(_started(box), _started(bench), culprit, ended)

    return _insist(attempt)


def _verdict(box: Box, bench: Box, culprit: Box | None, ended: str | None) -> Outcome:
    """Return the program's outcome with the verdict of the bench."""
    status, _, reason = bench.stdout.decode("utf-8", "replace").partition("\n")
    if ended is None and status in JUDGED:
        note = f"{box.outcome(status).stderr}{reason}\n" if reason else box.outcome(status).stderr
        return replace(box.outcome(status), stderr=note)
    if ended is None and status == "output":
        return box.outcome("output")
    if culprit is bench:  # the tests themselves took too much, over values that the program sent
        return replace(box.outcome(ended), stderr=bench.outcome(ended).stderr)
    if ended is not None:
        return box.outcome(ended)
    # The program ended before the tests did: it says how, and an early success is none.
    outcome = box.outcome(None)
    reason = reason or bench.outcome(None).stderr
    early = "error" if outcome.status == "ok" else outcome.status
    return replace(outcome, status=early, stderr=f"{outcome.stderr}{reason}\n")


def _started(box: Box) -> Box:
    if not box.begun:
        raise _NotStarted(bytes(box.stderr).decode("utf-8", "replace").strip() or "no reason given")
    return box


def _insist(attempt: Callable[[], Outcome]) -> Outcome:
    """Try again where a sandbox does not stand, which on a loaded machine happens; a fault is no verdict."""
    for count in range(ATTEMPTS):
        try:
            return attempt()
        except _NotStarted as error:
            problem = str(error)
            time.sleep(0.2 * 2**count if count < ATTEMPTS - 1 else 0)
    raise SandboxError(f"the sandbox could not be started: {problem}")


@contextlib.contextmanager
def _ending(box: Box) -> Iterator[None]:
    try:
        yield
    finally:
        box.end()


@contextlib.contextmanager
def _folder(isolation: Isolation) -> Iterator[str]:
    """Give a process without namespaces a folder of its own; the others bring one."""
    if isolation.kind != "process":
        yield "/"
        return
    with tempfile.TemporaryDirectory(prefix="infra-sandbox-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o777)
        yield folder


class _Pipe:
    """A pipe whose ends can be closed twice without harm: a number closed twice may be another's by then."""

    def __init__(self, closing: contextlib.ExitStack) -> None:
        reading, writing = os.pipe()
        self.out, self.into = FileIO(reading, "r"), FileIO(writing, "w")
        closing.callback(self.close)

    def close(self) -> None:
        """Close both ends here; what was passed on stays open there."""
        self.out.close()
        self.into.close()
