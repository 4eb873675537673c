r"""Grade mathematics by its final answer.

A boxed answer (``\boxed{…}``) counts first, then the last "answer is …". Plain whole numbers are
compared exactly; anything else goes to the math-verify library.
"""

from __future__ import annotations

import logging
import re

from infra_lib.evaluate.grades import Grade

_STATED = re.compile(
    r"answer is[:\s]*\$?(-?\d[\d,]*(?:\.\d+)?|[^\s.][^\n]*?)\$?(?=\.(?:\s|$)|\n|$)", re.IGNORECASE
)
_LONGEST = 20_000
"""Characters of a response that are looked at, from its end: an answer stands there."""


def extract_answer(response: str) -> str | None:
    """Return the final answer that a response states, or None."""
    tail = response[-_LONGEST:]
    if (boxed := _last_boxed(tail)) is not None:
        return boxed.strip()
    stated = _STATED.findall(tail)
    return stated[-1].strip() if stated else None


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
    correct = _equal(extracted, answer)
    return Grade(correct, extracted, "correct" if correct else "wrong answer")


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for i in range(begin, len(text)):
        if text[i] == "{":
            depth += 1
        elif text[i] == "}":
            if depth == 0:
                return text[begin:i]
            depth -= 1
    return None


def _equal(extracted: str, answer: str) -> bool:
    found, wanted = (text.replace(",", "").strip() for text in (extracted, answer))
    if re.fullmatch(r"-?\d{1,400}", wanted) and re.fullmatch(r"-?\d{1,400}", found):
        return int(found) == int(wanted)
    if found == wanted:
        return True
    # Imported here since it takes a second and plain numbers never need it.
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    # Its own timeouts use signal.alarm, which works on the main thread only; the input is capped instead.
    try:
        return bool(
            verify(
                parse(f"${wanted[:500]}$", parsing_timeout=None),
                parse(f"${found[:500]}$", parsing_timeout=None),
                timeout_seconds=None,
            )
        )
    except Exception:
        return False
