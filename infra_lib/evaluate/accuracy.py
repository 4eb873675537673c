"""Put a model through an exam: generate, grade, and tabulate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from infra_lib.errors import ParameterError
from infra_lib.evaluate import sandbox
from infra_lib.evaluate.generate import generate
from infra_lib.evaluate.grade_code import WORKERS, grade_many
from infra_lib.evaluate.grade_math import grade_math
from infra_lib.evaluate.grades import Grade
from infra_lib.examples import Example


def evaluate(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    isolation: str = "auto",
    workers: int = WORKERS,
    progress: bool = True,
) -> pd.DataFrame:
    """Answer every problem greedily and grade the answers.

    Problems with ``tests`` are graded by execution, ``workers`` programs at a time, walled off as
    ``isolation`` says (:func:`infra_lib.evaluate.sandbox.run`); others by their ``answer``.

    Returns
    -------
    pandas.DataFrame
        id, domain, difficulty, category, response, correct, reason; one row per problem, in order.

    Raises
    ------
    ParameterError
        For a problem with neither tests nor answer, before anything is generated.
    SandboxError
        Where programs cannot be walled off in that way, likewise.
    """
    for example in examples:
        if example.tests is None and example.answer is None:
            raise ParameterError(f"example {example.id}", None, "gradable: it needs tests or an answer")
    if any(example.tests is not None for example in examples):
        sandbox.resolve(isolation)
    answers = generate(
        model,
        tokenizer,
        [example.prompt for example in examples],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    responses = [texts[0] for texts in answers]
    grades = grade_all(examples, responses, isolation=isolation, workers=workers, progress=progress)
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
    examples: Sequence[Example],
    responses: Sequence[str],
    *,
    isolation: str = "auto",
    workers: int = WORKERS,
    progress: bool = True,
) -> list[Grade]:
    """Grade one response per example."""
    code = [i for i, example in enumerate(examples) if example.tests is not None]
    pairs = [(responses[i], str(examples[i].tests)) for i in code]
    grades = grade_many(pairs, isolation=isolation, workers=workers, progress=progress)
    executed = dict(zip(code, grades, strict=True))
    return [
        executed[i] if i in executed else grade_math(responses[i], str(example.answer))
        for i, example in enumerate(examples)
    ]
