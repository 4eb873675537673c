r"""The scoring rules of published benchmarks, by the name that an example carries in ``scoring``.

=================  ==========================================================================
rule               a response is right where …
=================  ==========================================================================
``gsm8k``          the number after its last ``####`` (else in its last box, else after its last
                   "answer is") equals the reference; commas, ``$``, ``%`` and a final full stop
                   do not count
``math``           its last box (else "answer is …") equals the reference after MATH's
                   normalisation, or math-verify finds them equal
``aime``           its last box (else "answer is …") is a whole number from 0 to 999, leading zeros
                   allowed, and is the reference
``mbpp``           the program defines what the assertions of the task need, and all hold
``humaneval``      ``check`` of the task raises nothing for the response's function
``livecodebench``  the program passes every public and private case
=================  ==========================================================================

Programs run in :mod:`infra_lib.evaluate.sandbox`. How a program is found in a response stands with
each extractor.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal

from tqdm import tqdm

from infra_lib.answers import last_boxed, last_hashes, last_stated
from infra_lib.errors import ParameterError
from infra_lib.evaluate import contest, sandbox
from infra_lib.evaluate.grade_code import REASONS, extract_program
from infra_lib.evaluate.grade_math import equal
from infra_lib.evaluate.grades import Grade
from infra_lib.evaluate.normal_form import normal_form
from infra_lib.examples import Example

HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a bare continuation of a HumanEval prompt ends (Chen et al. 2021, section 2.1)."""

_LIMITS = sandbox.Limits(cpu_seconds=5, wall_seconds=10.0, memory_mb=1024)


@dataclass(frozen=True)
class Running:
    """How programs are run: as :func:`infra_lib.evaluate.sandbox.run`; None takes each benchmark's limits."""

    limits: sandbox.Limits | None = None
    isolation: str = "auto"


def grade(response: str, example: Example, how: Running = Running()) -> Grade:
    """Grade a response by the rule that the example names.

    Raises
    ------
    ParameterError
        For a rule that is not in the table above.
    SandboxError
        Where the rule runs programs and the sandbox refuses to.
    """
    if example.scoring is None or example.scoring not in RULES:
        raise ParameterError("scoring", example.scoring, f"one of {', '.join(RULES)} (example {example.id})")
    return RULES[example.scoring](response, example, how)


def grade_each(
    examples: Sequence[Example],
    responses: Sequence[str],
    *,
    workers: int = 2,
    how: Running = Running(),
    progress: bool = True,
) -> list[Grade]:
    """Grade one response per example, ``workers`` sandboxed programs at a time, in order."""
    for scoring in {example.scoring for example in examples} - set(RULES):
        raise ParameterError("scoring", scoring, f"one of {', '.join(RULES)}")

    def grade_pair(pair: tuple[Example, str]) -> Grade:
        return grade(pair[1], pair[0], how)

    with ThreadPoolExecutor(workers) as pool:
        graded = pool.map(grade_pair, zip(examples, responses, strict=True))
        return list(tqdm(graded, total=len(examples), desc="grading", unit="answer", disable=not progress))


# --- Mathematics -------------------------------------------------------------------------------


def grade_gsm8k(response: str, example: Example, how: Running = Running()) -> Grade:
    """Grade by the number after ``####``, in the last box, or after "answer is"."""
    found = last_hashes(response) or last_boxed(response) or last_stated(response)
    if not found:
        return Grade(False, None, "no answer")
    number, wanted = _number(found), _number(str(example.answer))
    return _verdict(number is not None and number == wanted, found)


def _number(text: str) -> Decimal | None:
    """Return a number without thousands separators, currency, per cent sign and final full stop."""
    plain = text.replace("\\$", "").replace("\\%", "").replace("\\!", "").replace(",", "")
    plain = plain.strip().strip("$€£% ").removesuffix(".")
    if not re.fullmatch(r"[-+]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})", plain):
        return None
    return Decimal(plain)


def grade_boxed(response: str, example: Example, how: Running = Running()) -> Grade:
    """Grade by the last box: MATH's normal form first, then math-verify."""
    found = last_boxed(response) or last_stated(response)
    if not found:
        return Grade(False, None, "no answer")
    wanted = str(example.answer)
    return _verdict(normal_form(found) == normal_form(wanted) or equal(found, wanted), found)


def grade_aime(response: str, example: Example, how: Running = Running()) -> Grade:
    """Grade by the last box as a whole number from 0 to 999."""
    found = last_boxed(response) or last_stated(response)
    if not found:
        return Grade(False, None, "no answer")
    plain = found.strip("$ ").removesuffix(".")
    whole = re.fullmatch(r"0{0,3}\d{1,3}", plain) is not None and int(plain) <= 999
    return _verdict(whole and int(plain) == int(str(example.answer)), found)


def _verdict(right: bool, found: str) -> Grade:
    return Grade(right, found, "correct" if right else "wrong answer")


# --- Programs ----------------------------------------------------------------------------------


def mbpp_program(response: str) -> str | None:
    """Return the program of an MBPP response.

    What stands before ``[DONE]`` (and after ``[BEGIN]``, where the response repeats it), or else the last
    Python block, or else the whole response where it is Python that defines a function.
    """
    if "[DONE]" in response:
        return extract_program(part := response.split("[DONE]")[0].rsplit("[BEGIN]", 1)[-1]) or part
    return extract_program(response) or (response if _defines_something(response) else None)


def _defines_something(source: str) -> bool:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body)


def humaneval_program(response: str, prompt: str, entry_point: str) -> str | None:
    """Return the program of a HumanEval response.

    The last Python block, or else the response itself. Where that defines the function, it stands after
    the prompt, whose imports and helpers it may use; otherwise it continues the prompt, and a bare
    continuation ends at the first of :data:`HUMANEVAL_STOPS`.
    """
    block = extract_program(response)
    body = response if block is None else block
    if not body.strip():
        return None
    if re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", body, re.MULTILINE):
        return f"{prompt}\n{body}"
    if block is None:
        body = body[
            : min((at for stop in HUMANEVAL_STOPS if (at := body.find(stop)) >= 0), default=len(body))
        ]
    return prompt + body


def grade_mbpp(response: str, example: Example, how: Running = Running()) -> Grade:
    """Grade by the task's assertions."""
    tests = json.loads(str(example.tests))
    return _run_tests(mbpp_program(response), tests["tests"], how, setup=tests["setup"])


def grade_humaneval(response: str, example: Example, how: Running = Running()) -> Grade:
    """Grade by ``check``; helpers of the prompt that the tests use are the prompt's own."""
    tests = json.loads(str(example.tests))
    entry = tests["entry_point"]
    program = humaneval_program(response, tests["prompt"], entry)
    return _run_tests(program, tests["tests"], how, setup=tests["prompt"], entry_point=entry)


def grade_contest(response: str, example: Example, how: Running = Running()) -> Grade:
    """Grade by LiveCodeBench's cases."""
    return contest.grade(response, str(example.tests), limits=how.limits, isolation=how.isolation)


def _run_tests(
    program: str | None, tests: str, how: Running, *, setup: str = "", entry_point: str | None = None
) -> Grade:
    """Run a program under the tests; the sandbox sees to it that the program cannot forge the verdict."""
    if program is None:
        return Grade(False, None, "no program")
    sandbox.resolve(how.isolation)
    outcome = sandbox.run_tests(
        program,
        tests,
        setup=setup,
        entry_point=entry_point,
        limits=how.limits or _LIMITS,
        isolation=how.isolation,
    )
    return Grade(outcome.status == "ok", program, REASONS.get(outcome.status, outcome.status))


Rule = Callable[[str, Example, Running], Grade]
RULES: dict[str, Rule] = {
    "gsm8k": grade_gsm8k,
    "math": grade_boxed,
    "aime": grade_aime,
    "mbpp": grade_mbpp,
    "humaneval": grade_humaneval,
    "livecodebench": grade_contest,
}
EXECUTED = frozenset({"mbpp", "humaneval", "livecodebench"})
"""Rules that run the response."""
