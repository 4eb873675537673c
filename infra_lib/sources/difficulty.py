"""Difficulty from 1 (easiest) to 5, by one written rule for each kind of label that data sets give.

The paper sorts its training data into easy and hard and does not say by what. Every rule here is
**our choice**. Where a data set gives no label, difficulty is None, and what needs one (the flip of
arms, tables by difficulty) leaves such examples out and says how many.

The rules stand in :data:`RULES`, from which the book's table is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from infra_lib.errors import DataError
from infra_lib.examples import Example
from infra_lib.sources.rows import BadRow, shorten, value

RULES = {
    "level": "a level from 1 to 5, as it is (MATH: 5, or Level 5)",
    "word": "easy, introductory → 1; medium, interview → 3; hard, competition → 5; in rows of TACO easy, "
    "medium, medium_hard, hard, very_hard → 1 to 5",
    "pass rate": "share of sampled answers that are right: under 0.2 → 5, under 0.4 → 4, under 0.6 → 3, "
    "under 0.8 → 2, else 1",
    "steps": "annotated calculations in the worked solution: 1 or 2 → 1, 3 → 2, 4 → 3, 5 → 4, 6 or more → 5",
    "position": "number of an AIME problem, 1 to 15: three to a level",
    "subset": "NuminaMath's source: gsm8k, orca_math, synthetic_math, synthetic_amc → 1; cn_k12 → 2; "
    "math → 3; amc_aime → 4; olympiads, aops_forum → 5",
}
"""From a label to a difficulty; each is our choice."""

WORDS = {
    "easy": 1,
    "medium": 3,
    "hard": 5,
    "introductory": 1,
    "interview": 3,
    "competition": 5,
}
TACO_WORDS = {"easy": 1, "medium": 2, "medium_hard": 3, "hard": 4, "very_hard": 5}
SUBSETS = {
    "gsm8k": 1,
    "orca_math": 1,
    "synthetic_math": 1,
    "synthetic_amc": 1,
    "cn_k12": 2,
    "math": 3,
    "amc_aime": 4,
    "olympiads": 5,
    "aops_forum": 5,
}
_UNKNOWN = {"", "unknown", "unknown_difficulty", "none", "level ?"}


def from_level(label: Any) -> int | None:
    """Return the difficulty of a level such as ``5`` or ``Level 5``."""
    if label is None or str(label).strip().lower() in _UNKNOWN:
        return None
    match = re.fullmatch(r"(?:level\s*)?([1-5])(?:\.0)?", str(label).strip().lower())
    if match is None:
        raise BadRow(f"level is {shorten(label)}; it must be from 1 to 5")
    return int(match[1])


def from_word(label: Any, *, words: Mapping[str, int] = WORDS) -> int | None:
    """Return the difficulty of a word such as ``easy``; None for an unknown one."""
    if label is None or str(label).strip().lower() in _UNKNOWN:
        return None
    word = str(label).strip().lower().replace(" ", "_")
    if word not in words:
        raise BadRow(f"difficulty is {shorten(label)}; it must be one of {', '.join(words)}")
    return words[word]


def from_pass_rate(rate: Any) -> int | None:
    """Return the difficulty of a share of right answers from 0 to 1."""
    if rate is None:
        return None
    try:
        share = float(rate)
    except (TypeError, ValueError):
        share = math.nan
    if not 0 <= share <= 1:
        raise BadRow(f"pass rate is {shorten(rate)}; it must be from 0 to 1")
    return 5 - sum(share >= edge for edge in (0.2, 0.4, 0.6, 0.8))


def from_steps(count: int) -> int | None:
    """Return the difficulty of a number of calculations; None where the solution shows none."""
    return None if count < 1 else min(max(count - 1, 1), 5)


def from_position(number: int | None) -> int | None:
    """Return the difficulty of an AIME problem by its number."""
    if number is None or not 1 <= number <= 15:
        return None
    return (number + 2) // 3


def from_columns(row: Mapping[str, Any]) -> int | None:
    """Return the difficulty of whatever label a training row carries.

    Tried in this order: ``pass_rate``, ``level``, ``difficulty`` (a level or a word), ``subset``, ``source``.
    The published sets have none of these columns; copies that people have enriched do.
    """
    if (rate := value(row, "pass_rate")) is not None:
        return from_pass_rate(rate)
    if (level := value(row, "level")) is not None:
        return from_level(level)
    if (label := value(row, "difficulty")) is not None:
        if re.fullmatch(r"(?:level\s*)?\d+(?:\.0)?", str(label).strip().lower()):
            return from_level(label)
        taco = str(value(row, "source", default="")).lower() == "taco"
        return from_word(label, words=TACO_WORDS if taco else {**TACO_WORDS, **WORDS})
    subset = value(row, "source_subset", "subset", "source")
    return SUBSETS.get(str(subset).strip().lower()) if subset is not None else None


def with_pass_rates(examples: Sequence[Example], rates: Mapping[str, float]) -> list[Example]:
    """Return the examples with difficulties from measured pass rates.

    This is how a training set without labels gets them: let a model answer each problem a few times,
    grade the answers, and give the share of right ones.

    Parameters
    ----------
    rates
        Share of right answers by example id. An example without one keeps the difficulty it has.

    Raises
    ------
    DataError
        For an id that no example has, or a rate that is no share.
    """
    ids = {example.id for example in examples}
    if unknown := [key for key in rates if key not in ids]:
        raise DataError("pass rates", f"name {len(unknown)} ids that no example has, such as {unknown[0]!r}")
    labelled = []
    for example in examples:
        try:
            level = from_pass_rate(rates.get(example.id))
        except BadRow as error:
            raise DataError("pass rates", f"of {example.id!r}: {error}") from None
        labelled.append(example if level is None else replace(example, difficulty=level))
    return labelled
