r"""Grade mathematics by its final answer.

A boxed answer (``\boxed{…}``) counts first, then the last "answer is …". Plain whole numbers are
compared exactly; anything else goes to the math-verify library.
"""

from __future__ import annotations

import re

from infra_lib.answers import last_boxed, last_stated
from infra_lib.evaluate.equivalence import same_value
from infra_lib.evaluate.grades import Grade


def extract_answer(response: str) -> str | None:
    """Return the final answer that a response states, or None."""
    return last_boxed(response) or last_stated(response)


def grade_math(response: str, answer: str) -> Grade:
    """Grade a response against the reference answer.

    Parameters
    ----------
    response
        What the model wrote.
    answer
        Reference answer: a whole number, or LaTeX.
    """
    extracted = extract_answer(response)
    if not extracted:
        return Grade(False, None, "no answer")
    correct = equal(extracted, answer)
    return Grade(correct, extracted, "correct" if correct else "wrong answer")


def equal(extracted: str, answer: str) -> bool:
    """Return whether two answers say the same: whole numbers exactly, anything else by math-verify."""
    found, wanted = (_without_separators(text.strip()) for text in (extracted, answer))
    if re.fullmatch(r"-?\d{1,400}", wanted) and re.fullmatch(r"-?\d{1,400}", found):
        return int(found) == int(wanted)
    if found == wanted:
        return True
    return same_value(wanted, found)


def _without_separators(text: str) -> str:
    """Return ``1,024`` as ``1024``, and a pair such as ``(1,2)`` as it is."""
    return text.replace(",", "") if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text) else text
