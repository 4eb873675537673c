"""Grade code by running it: the program's function is called on hidden inputs.

The expected values stay here; the program sees the inputs alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from infra_lib.errors import ParameterError
from infra_lib.evaluate import sandbox
from infra_lib.evaluate.grades import Grade

WORKERS = 4
"""Programs side by side. Making and ending namespaces is mostly waiting, so more than there are cores."""

REASONS = {"ok": "correct", "wrong": "wrong answer"}
"""How a sandbox's status reads as a grade's reason; the others read as they are."""

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def extract_program(response: str) -> str | None:
    """Return the last Python block of a response, or None."""
    blocks = _BLOCK.findall(response)
    return blocks[-1] if blocks and blocks[-1].strip() else None


def grade_code(
    response: str,
    tests: str,
    *,
    entry_point: str = "f",
    limits: sandbox.Limits | None = None,
    isolation: str = "auto",
) -> Grade:
    """Grade a response by the hidden tests.

    Parameters
    ----------
    response
        What the model wrote, with a Python block.
    tests
        JSON: a list of ``{"args": [...], "expected": ...}``.
    entry_point
        The function to call.
    limits, isolation
        As for :func:`infra_lib.evaluate.sandbox.call`.

    Raises
    ------
    SandboxError
        Where the sandbox refuses to run programs.
    """
    program = extract_program(response)
    if program is None:
        return Grade(False, None, "no program")
    cases = json.loads(tests)
    if not cases:
        raise ParameterError("tests", tests, "at least one case with args and expected")
    outcome = sandbox.check_calls(
        program,
        entry_point,
        [case["args"] for case in cases],
        [case["expected"] for case in cases],
        limits=limits,
        isolation=isolation,
    )
    if outcome.status == "refused":
        raise sandbox.SandboxError(outcome.stderr)
    return Grade(outcome.status == "ok", program, REASONS.get(outcome.status, outcome.status))


def grade_many(
    pairs: Sequence[tuple[str, str]],
    *,
    entry_point: str = "f",
    limits: sandbox.Limits | None = None,
    isolation: str = "auto",
    workers: int = WORKERS,
    progress: bool = True,
) -> list[Grade]:
    """Grade (response, tests) pairs, ``workers`` sandboxed programs at a time, in order.

    Raises
    ------
    SandboxError
        Where the sandbox refuses to run programs, before the first of them.
    """
    if pairs:
        sandbox.resolve(isolation)

    def grade(pair: tuple[str, str]) -> Grade:
        return grade_code(pair[0], pair[1], entry_point=entry_point, limits=limits, isolation=isolation)

    with ThreadPoolExecutor(workers) as pool:
        graded = pool.map(grade, pairs)
        return list(tqdm(graded, total=len(pairs), desc="programs", unit="program", disable=not progress))
