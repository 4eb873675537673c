r"""MATH500 and the AIME sets: competition mathematics with a short final answer.

**MATH500**, columns ``problem``, ``solution``, ``answer``, ``subject``, ``level``, ``unique_id``: 500 test
problems of MATH. Difficulty is its level, 1 to 5, as it is; category its subject.

**AIME24**, **AIME25**: 30 problems each, answers whole numbers from 0 to 999. They are published
several times under different column names, all of which are read: ``id``, ``ID`` or none; ``problem``,
``Problem`` or ``question``; ``answer`` or ``Answer``, a number or text, sometimes written ``\boxed{}``;
``solution`` where there is one. Difficulty, our choice: the problem's number from 1 to 15, three to a
level (the competition orders its problems), where the row's id or url tells the number, else None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from infra_lib.answers import last_boxed
from infra_lib.examples import Example
from infra_lib.sources import difficulty
from infra_lib.sources.context import Context
from infra_lib.sources.rows import BadRow, Row, optional_text, shorten, text, value

_AIME_ID = re.compile(r"(?:^|\D)20\d\d[-_ ](?:AIME[-_ ])?(I{1,2}|1|2)[-_ ](\d{1,2})$", re.IGNORECASE)
_AIME_URL = re.compile(r"AIME_(I{1,2})_Problems/Problem_(\d{1,2})", re.IGNORECASE)


def parse(row: Row, context: Context) -> Example:
    """Return a row of MATH500 as an example."""
    problem, answer = text(row.values, "problem"), text(row.values, "answer")
    return Example(
        id=f"math500/{optional_text(row.values, 'unique_id') or context.index}",
        domain="math",
        prompt=context.prompt(problem),
        response=optional_text(row.values, "solution"),
        difficulty=difficulty.from_level(value(row.values, "level")),
        category=optional_text(row.values, "subject") or None,
        answer=answer,
        question=problem,
        scoring="math",
    )


def parse_aime(row: Row, context: Context) -> Example:
    """Return a row of an AIME set as an example."""
    problem = text(row.values, "problem", "question")
    answer = aime_answer(value(row.values, "answer"))
    name, number = _which(row.values)
    return Example(
        id=f"{context.name}/{name or context.index}",
        domain="math",
        prompt=context.prompt(problem),
        response=optional_text(row.values, "solution"),
        difficulty=difficulty.from_position(number),
        category=context.name,
        answer=str(answer),
        question=problem,
        scoring="aime",
    )


def aime_answer(given: Any) -> int:
    """Return a reference answer as a whole number from 0 to 999.

    Raises
    ------
    BadRow
        For anything else.
    """
    said = str(given).strip() if isinstance(given, str | int | float) and not isinstance(given, bool) else ""
    said = (last_boxed(said) or said).strip("$ ").removesuffix(".0")
    if not re.fullmatch(r"\d{1,3}", said):
        raise BadRow(f"answer is {shorten(given)}; it must be a whole number from 0 to 999")
    return int(said)


def _which(row: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """Return a row's own id as text, and the problem's number in its paper where id or url tell it."""
    own = value(row, "id")
    name = None if own is None else str(own)
    for pattern, where in ((_AIME_ID, name), (_AIME_URL, optional_text(row, "url"))):
        if where and (match := pattern.search(where)):
            return name, int(match[2])
    return name, None
