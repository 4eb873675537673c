"""Run programs that a model wrote, each walled off from the machine and from its own grading.

A program is hostile until shown otherwise. Each one gets a process of its own, inside
namespaces of its own (bubblewrap): no network, no other processes, no files but the
interpreter and the C libraries, read-only, and a small folder in memory. It runs as a user of
its own without privileges, with an empty environment, behind a filter of system calls, under
limits on processor time, memory, files, open files, processes and output; a clock ends the
whole tree. Where namespaces do not work it is refused, unless the caller asks for
``isolation="process"`` by name.

What a program should answer is never within its reach. :func:`check_output` and
:func:`check_calls` compare, in this process, what came back. :func:`run_tests` runs assertions
in a second sandbox, which asks the program's sandbox for values over a pipe; a program that
ends early, prints success, patches what it finds or returns an object that equals everything
changes its own answers only.

Outside its reach: faults of the kernel that a program can use with the system calls that are
left; what can be learned from timing and shared caches; processor time taken from others
within the limits. With ``isolation="process"`` a program can read what the user can read, use the
network, leave processes behind, and reach the process that judges it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from infra_lib.evaluate.sandbox.compare import plain_json, same, same_output
from infra_lib.evaluate.sandbox.isolate import CHOICES, SandboxError, isolation, resolve
from infra_lib.evaluate.sandbox.outcome import Limits, Outcome
from infra_lib.evaluate.sandbox.process import execute, judge_tests, serve_calls

__all__ = [
    "CHOICES",
    "Limits",
    "Outcome",
    "SandboxError",
    "call",
    "check_calls",
    "check_output",
    "isolation",
    "resolve",
    "run",
    "run_tests",
    "same",
    "same_output",
]


def run(
    program: str,
    *,
    stdin: str = "",
    limits: Limits | None = None,
    files: Mapping[str, str] | None = None,
    isolation: str = "auto",
) -> Outcome:
    """Run a program as a script.

    Parameters
    ----------
    program
        Python source.
    stdin
        What it reads from standard input.
    limits
        What it may use.
    files
        Small text files to put into its folder, by plain name.
    isolation
        ``auto`` or ``bubblewrap``: namespaces, or it is refused; ``process``: limits alone.

    Returns
    -------
    Outcome
        With status ``ok`` for a program that ended by itself with exit status 0.

    Raises
    ------
    ParameterError
        For an unknown isolation.
    SandboxError
        Where a sandbox that works on this machine could not be started, in several attempts.
    """
    try:
        how = resolve(isolation)
    except SandboxError as error:
        return Outcome("refused", stderr=str(error))
    return execute(how, limits or Limits(), program=program, stdin=stdin, files=files)


def call(
    program: str,
    function: str,
    arguments: Sequence[Sequence[Any]],
    *,
    limits: Limits | None = None,
    isolation: str = "auto",
) -> Outcome:
    """Define a function by running ``program``, then call it on each argument list.

    Parameters
    ----------
    program
        Python source.
    function
        Its name; ``Class.method`` is the method of a new instance.
    arguments
        One list of arguments per call, of plain built-in types. The program can see them all at once.
    limits, isolation
        As for :func:`run`.

    Returns
    -------
    Outcome
        With ``values``, one per argument list, where the status is ``ok``. Values are what JSON can
        say: tuples come back as lists, keys as text. A value that JSON cannot say is an ``error``.
    """
    try:
        how = resolve(isolation)
    except SandboxError as error:
        return Outcome("refused", stderr=str(error))
    outcome = serve_calls(how, limits or Limits(), program=program, function=function, arguments=arguments)
    if outcome.values is None:
        return outcome
    try:
        return replace(outcome, values=[plain_json(value) for value in outcome.values])
    except TypeError as error:
        return replace(outcome, status="error", values=None, stderr=f"{outcome.stderr}{error}\n")


def run_tests(
    program: str,
    tests: str,
    *,
    setup: str = "",
    entry_point: str | None = None,
    limits: Limits | None = None,
    isolation: str = "auto",
) -> Outcome:
    """Judge a program by tests that are Python code: assertions on what its functions return.

    The tests run in a sandbox of their own. A name that they use and do not define stands for the
    program's function of that name; calling it is a message to the program's sandbox. Arguments and
    values travel as plain built-in types (None, numbers, text, bytes, lists, tuples, sets, dicts, ranges;
    other iterables arrive as iterators, objects of other classes as something that equals nothing).
    Changes that a function makes to a list, dict or set it is given are carried back.

    Not covered: tests that pass functions or objects of classes (``refused``), that look at a function
    rather than call it, use a class of the program, or need the very object back (``is``).

    Parameters
    ----------
    program
        Python source with the function, written by a model.
    tests
        Trusted source. Where it defines ``check`` and there is an entry point, ``check(entry_point)`` is
        called after it, as HumanEval's tests are meant to be.
    setup
        Trusted source that runs before the tests and beside them, such as imports and helpers.
    entry_point
        The function under test, for which a definition of that name in the setup does not stand.
    limits
        For the program and, separately, for the tests.
    isolation
        As for :func:`run`.

    Returns
    -------
    Outcome
        ``ok`` where the tests ran to their end; ``wrong`` where an assertion did not hold; ``error`` where
        the program or the tests raised, or the program ended early; ``refused`` where the tests cannot be
        run in this way; else how the program ended.
    """
    try:
        how = resolve(isolation)
    except SandboxError as error:
        return Outcome("refused", stderr=str(error))
    return judge_tests(
        how, limits or Limits(), program=program, tests=tests, setup=setup, entry_point=entry_point
    )


def check_output(program: str, stdin: str, expected: str, **options: Any) -> Outcome:
    """Run a program and compare its standard output: ``wrong`` where it differs.

    Trailing blanks of lines and blank lines at the end do not count. Options are those of :func:`run`.
    """
    outcome = run(program, stdin=stdin, **options)
    return _judged(outcome, same_output(outcome.stdout, expected))


def check_calls(
    program: str, function: str, arguments: Sequence[Sequence[Any]], expected: Sequence[Any], **options: Any
) -> Outcome:
    """Call a program's function and compare what it returns, strictly: ``wrong`` where it differs.

    Options are those of :func:`call`.
    """
    outcome = call(program, function, arguments, **options)
    return _judged(outcome, same(outcome.values, [plain_json(value) for value in expected]))


def _judged(outcome: Outcome, right: bool) -> Outcome:
    return outcome if right or outcome.status != "ok" else replace(outcome, status="wrong")
