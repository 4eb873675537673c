"""Put a model through an exam: generate, grade, and tabulate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from infra_lib.errors import ParameterError
from infra_lib.evaluate.generate import generate
from infra_lib.evaluate.grade_code import grade_many
from infra_lib.evaluate.grade_math import grade_math
from infra_lib.evaluate.grades import Grade
from infra_lib.evaluate.official import Running, grade_each
from infra_lib.examples import Example


def evaluate(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    workers: int = 2,
    progress: bool = True,
) -> pd.DataFrame:
    """Answer every problem greedily and grade the answers.

    Problems with ``tests`` are graded by execution, others by their ``answer``.

    Returns
    -------
    pandas.DataFrame
        id, domain, difficulty, category, response, correct, reason; one row per problem, in order.

    Raises
    ------
    ParameterError
        For a problem with neither tests nor answer, before anything is generated.
    """
    for example in examples:
        if example.tests is None and example.answer is None:
            raise ParameterError(f"example {example.id}", None, "gradable: it needs tests or an answer")
    answers = generate(
        model,
        tokenizer,
        [example.prompt for example in examples],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    responses = [texts[0] for texts in answers]
    grades = grade_all(examples, responses, workers=workers, progress=progress)
    return pd.DataFrame(
        {
            "id": [example.id for example in examples],
            "domain": [example.domain for example in examples],
            "difficulty": pd.array([example.difficulty for example in examples], dtype="Int64"),
            "category": [example.category for example in examples],
            "response": responses,
            "correct": [grade.correct for grade in grades],
            "reason": [grade.reason for grade in grades],
        }
    )


def grade_all(
    examples: Sequence[Example], responses: Sequence[str], *, workers: int = 2, progress: bool = True
) -> list[Grade]:
    """Grade one response per example."""
    code = [i for i, ex in enumerate(examples) if ex.tests is not None and ex.scoring is None]
    pairs = [(responses[i], str(examples[i].tests)) for i in code]
    executed = dict(zip(code, grade_many(pairs, workers=workers, progress=progress), strict=True))
    executed |= _by_rule(examples, responses, Running(), workers, progress)
    return [
        executed[i] if i in executed else grade_math(responses[i], str(example.answer))
        for i, example in enumerate(examples)
    ]


def _by_rule(
    examples: Sequence[Example], responses: Sequence[str], how: Running, workers: int, progress: bool
) -> dict[int, Grade]:
    """Grade the examples that name an official rule; return the grades by position."""
    ruled = [i for i, example in enumerate(examples) if example.scoring is not None]
    if not ruled:
        return {}
    chosen = [examples[i] for i in ruled], [responses[i] for i in ruled]
    return dict(zip(ruled, grade_each(*chosen, how=how, workers=workers, progress=progress), strict=True))
