r"""Worked solutions in the format of the Sky-T1 recipe, as Bespoke-Stratos and OpenThoughts publish them.

A row has ``system`` (text) and ``conversations``, a list of turns ``{from, value}``: first the
problem, last the solution, in which the thought stands between ``<|begin_of_thought|>`` and
``<|end_of_thought|>`` and the final text between ``<|begin_of_solution|>`` and
``<|end_of_solution|>``.

The domain is read from the sentence that the recipe puts in front of each problem:

====================================================================  =======  =============
first words of the problem                                            domain   category
====================================================================  =======  =============
``Return your final response within \boxed{}.``                       math     answer
``Generate an executable Python function generated from the given      code     stdin or
prompt.``, which goes on with ``The function should take stdin``       code     function
anything else (science, puzzles)                                      other    None
====================================================================  =======  =============
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from infra_lib.evaluate.grade_math import extract_answer
from infra_lib.sources.rows import BadRow, shorten, value

MATH_PREFIX = "Return your final response within \\boxed{}."
CODE_PREFIX = "Generate an executable Python function generated from the given prompt."
THOUGHT = ("<|begin_of_thought|>", "<|end_of_thought|>")
SOLUTION = ("<|begin_of_solution|>", "<|end_of_solution|>")

_USER = {"user", "human"}
_ASSISTANT = {"assistant", "gpt"}


def turns(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the problem and the worked solution of a conversation.

    ``from``/``value`` and ``role``/``content`` are both understood, and ``human``/``gpt`` beside
    ``user``/``assistant``.

    Raises
    ------
    BadRow
        For anything but one problem and one solution, or a solution whose tags are not paired (a
        trace that was cut while it was made).
    """
    found = value(row, "conversations", "messages")
    # A list of records comes as a record of lists from some readers.
    if isinstance(found, Mapping) and all(isinstance(part, list) for part in found.values()):
        found = [dict(zip(found, parts, strict=False)) for parts in zip(*found.values(), strict=False)]
    if not isinstance(found, list) or not all(isinstance(turn, Mapping) for turn in found):
        raise BadRow(f"conversations is {shorten(found)}; it must be a list of turns")
    said = [(str(value(t, "from", "role")).lower(), value(t, "value", "content")) for t in found]
    said = [(who, what) for who, what in said if who != "system"]
    if len(said) != 2 or said[0][0] not in _USER or said[1][0] not in _ASSISTANT:
        raise BadRow(
            f"conversations has turns from {', '.join(who for who, _ in said) or 'nobody'}; "
            "it must be one of user and one of assistant"
        )
    problem, solution = said[0][1], said[1][1]
    if not (isinstance(problem, str) and problem.strip() and isinstance(solution, str) and solution.strip()):
        raise BadRow("conversations has an empty turn")
    check_tags(solution)
    return problem, solution


def check_tags(solution: str) -> None:
    """Raise for a solution with a tag that is opened and not closed, or the other way round."""
    for opening, closing in (THOUGHT, SOLUTION):
        if solution.count(opening) != solution.count(closing):
            raise BadRow(f"solution has {opening} without {closing}, or the other way round: a torn trace")


def domain_of(problem: str) -> tuple[str, str | None]:
    """Return the domain and category that a problem's first words give (table above)."""
    head = problem.lstrip()
    if head.startswith(MATH_PREFIX):
        return "math", "answer"
    if head.startswith(CODE_PREFIX):
        stdin = "take stdin as input" in head[: len(CODE_PREFIX) + 120]
        return "code", "stdin" if stdin else "function"
    return "other", None


def final_part(solution: str) -> str:
    """Return what stands between the solution tags, or the whole text without them."""
    start = solution.rfind(SOLUTION[0])
    if start < 0:
        return solution
    end = solution.find(SOLUTION[1], start)
    return solution[start + len(SOLUTION[0]) : end if end >= 0 else len(solution)]


def answer_of(solution: str) -> str | None:
    r"""Return the boxed answer of a solution's final part (the teacher's, which may be wrong)."""
    part = final_part(solution)
    return extract_answer(part) if "\\boxed{" in part else None


def question_of(problem: str) -> str:
    """Return what two rows that ask the same share: a digest of the words, whatever case and spacing."""
    words = " ".join(re.findall(r"\w+|[^\w\s]", problem.lower()))
    return hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()[:32]
