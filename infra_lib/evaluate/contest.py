"""LiveCodeBench's scoring: a program on standard input, or a function, against every case.

Followed from the official checker (``lcb_runner/evaluation``):

* the program stands between the last two lines that hold three backticks;
* it runs after the checker's own imports, each case within six seconds, and the first case that
  fails decides;
* **standard input**: both outputs are stripped and cut into lines, their number must agree, and each
  pair of stripped lines must be the same text or the same list of decimal numbers;
* **function**: arguments are one JSON value a line, the function is a method of ``Solution`` where the
  program has that class, and what it returns must equal (``==``) the JSON that is expected, a tuple
  counting as a list.

Where this differs: a program is run as a script of its own and not inside a function; a case has a new
process; a program that leaves with an exit code other than 0 has failed; tuples inside of a returned
list count as lists, too; memory is 1 GiB and not 4.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any

from infra_lib.evaluate import sandbox
from infra_lib.evaluate.grades import Grade
from infra_lib.sources.private_cases import decode_cases

SECONDS = 6
"""Of each case, in the official checker."""

LIMITS = sandbox.Limits(
    cpu_seconds=SECONDS, wall_seconds=SECONDS + 2.0, memory_mb=1024, output_bytes=16 * 2**20
)

_STARRED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
# In the checker's order, since later names shadow earlier ones; `builtins` brings `open`, `pow` … back.
PRELUDE = "\n".join(
    [f"from {module} import *" for module in _STARRED]
    + [f"import {module}" for module in _STARRED if module not in ("builtins", "typing")]
    + ["sys.setrecursionlimit(50000)", ""]
)


def extract(response: str) -> str | None:
    """Return what stands between the last two lines with three backticks, or None."""
    lines = response.split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    if len(fences) < 2:
        return None
    program = "\n".join(lines[fences[-2] + 1 : fences[-1]])
    return program if program.strip() else None


def grade(
    response: str, tests: str, *, limits: sandbox.Limits | None = None, isolation: str = "auto"
) -> Grade:
    """Grade a response by all cases of a problem.

    Parameters
    ----------
    tests
        JSON with ``function`` (name or null), ``public`` (cases) and ``private`` (cases, packed).
    limits
        Of each case; :data:`LIMITS` by default.

    Raises
    ------
    SandboxError
        Where the sandbox refuses to run programs.
    """
    program = extract(response)
    if program is None:
        return Grade(False, None, "no program")
    problem = json.loads(tests)
    function = problem["function"]
    sandbox.resolve(isolation)
    for case in [*problem["public"], *decode_cases(problem["private"])]:
        if function is None:
            verdict = _stdin(program, case, limits or LIMITS, isolation)
        else:
            verdict = _call(program, function, case, limits or LIMITS, isolation)
        if verdict != "correct":
            return Grade(False, program, verdict)
    return Grade(True, program, "correct")


def _stdin(program: str, case: dict[str, str], limits: sandbox.Limits, isolation: str) -> str:
    outcome = sandbox.run(PRELUDE + program, stdin=case["input"], limits=limits, isolation=isolation)
    if outcome.status != "ok":
        return outcome.status
    return "correct" if same_lines(outcome.stdout, case["output"]) else "wrong answer"


def _call(program: str, function: str, case: dict[str, str], limits: sandbox.Limits, isolation: str) -> str:
    called = f"Solution.{function}" if "class Solution" in program else function
    arguments = [json.loads(line) for line in case["input"].split("\n")]
    outcome = sandbox.call(PRELUDE + program, called, [arguments], limits=limits, isolation=isolation)
    if outcome.status != "ok" or not outcome.values:
        return "error" if outcome.status == "ok" else outcome.status
    return "correct" if bool(outcome.values[0] == json.loads(case["output"])) else "wrong answer"


def same_lines(printed: str, expected: str) -> bool:
    """Compare what a program printed with what is expected, line by line."""
    lines, wanted = ([line.strip() for line in text.strip().split("\n")] for text in (printed, expected))
    return len(lines) == len(wanted) and all(map(_same_line, lines, wanted))


def _same_line(line: str, wanted: str) -> bool:
    if line == wanted:
        return True
    found, meant = _decimals(line), _decimals(wanted)
    try:
        return found is not None and meant is not None and found == meant
    except InvalidOperation:  # a signalling NaN equals nothing
        return False


def _decimals(line: str) -> list[Any] | None:
    try:
        return [Decimal(part) for part in line.split()]
    except (InvalidOperation, ValueError):
        return None
