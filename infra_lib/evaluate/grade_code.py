"""Grade code by running it: the program's function is called on hidden inputs.

The expected values stay here; the program sees the inputs alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from infra_lib.errors import ParameterError
from infra_lib.evaluate import sandbox
from infra_lib.evaluate.grades import Grade

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def extract_program(response: str) -> str | None:
    """Return the last Python block of a response, or None."""
    blocks = _BLOCK.findall(response)
    return blocks[-1] if blocks and blocks[-1].strip() else None


def grade_code(
    response: str, tests: str, *, entry_point: str = "f", limits: sandbox.Limits | None = None
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
    """
    program = extract_program(response)
    if program is None:
        return Grade(False, None, "no program")
    cases = json.loads(tests)
    if not cases:
        raise ParameterError("tests", tests, "at least one case with args and expected")
    outcome = sandbox.call(program, entry_point, [case["args"] for case in cases], limits=limits)
    if outcome.status != "ok" or outcome.values is None:
        return Grade(False, program, outcome.status if outcome.status != "ok" else "error")
    expected = [case["expected"] for case in cases]
    right = len(outcome.values) == len(expected) and all(map(same, outcome.values, expected))
    return Grade(right, program, "correct" if right else "wrong answer")


def same(value: Any, expected: Any) -> bool:
    """Compare two JSON values strictly: True is not 1, and 1.0 is not 1."""
    if type(value) is not type(expected):
        return False
    if isinstance(value, list):
        return len(value) == len(expected) and all(map(same, value, expected))
    return bool(value == expected)


def grade_many(
    pairs: Sequence[tuple[str, str]],
    *,
    entry_point: str = "f",
    limits: sandbox.Limits | None = None,
    workers: int = 2,
    progress: bool = True,
) -> list[Grade]:
    """Grade (response, tests) pairs, ``workers`` sandboxed programs at a time, in order."""

    def grade(pair: tuple[str, str]) -> Grade:
        return grade_code(pair[0], pair[1], entry_point=entry_point, limits=limits)

    with ThreadPoolExecutor(workers) as pool:
        graded = pool.map(grade, pairs)
        return list(tqdm(graded, total=len(pairs), desc="programs", unit="program", disable=not progress))
