"""Put a model through an exam: generate, grade, and tabulate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from infra_lib.errors import ParameterError
from infra_lib.evaluate.generate import Engine, Sampling, answer
from infra_lib.evaluate.grade_code import grade_many
from infra_lib.evaluate.grade_math import grade_math
from infra_lib.evaluate.grades import Grade
from infra_lib.evaluate.official import grade_each
from infra_lib.examples import Example


def evaluate(
    engine: Engine,
    problems: Sequence[Example],
    sampling: Sampling,
    *,
    store: Path | None = None,
    workers: int = 2,
    progress: bool = True,
) -> pd.DataFrame:
    """Answer every problem and grade the answers.

    Problems that name an official rule are graded by it, others with ``tests`` by execution, the rest by
    their ``answer``.

    Parameters
    ----------
    engine, sampling
        What draws answers, and how.
    store
        Folder that keeps answers as they come, so that an interrupted exam goes on.

    Returns
    -------
    pandas.DataFrame
        id, domain, difficulty, category, sample, response, correct, reason; ``sampling.samples`` rows
        per problem, in order.

    Raises
    ------
    ParameterError
        For a problem with neither rule, tests nor answer, before anything is generated.
    """
    for example in problems:
        if example.scoring is None and example.tests is None and example.answer is None:
            raise ParameterError(f"example {example.id}", None, "gradable: it needs tests or an answer")
    answers = answer(engine, problems, sampling, store=store, progress=progress)
    by_id = {example.id: example for example in problems}
    asked = [by_id[identifier] for identifier in answers["id"]]
    grades = grade_all(asked, list(answers["response"]), workers=workers, progress=progress)
    return pd.DataFrame(
        {
            "id": [example.id for example in asked],
            "domain": [example.domain for example in asked],
            "difficulty": pd.array([example.difficulty for example in asked], dtype="Int64"),
            "category": [example.category for example in asked],
            "sample": answers["sample"].to_numpy(),
            "response": answers["response"].to_numpy(),
            "correct": [grade.correct for grade in grades],
            "reason": [grade.reason for grade in grades],
        }
    )


def grade_all(
    examples: Sequence[Example], responses: Sequence[str], *, workers: int = 2, progress: bool = True
) -> list[Grade]:
    """Grade one response per example, by its official rule where it names one."""
    ruled = [i for i, example in enumerate(examples) if example.scoring is not None]
    grades = dict(
        zip(
            ruled,
            grade_each(
                [examples[i] for i in ruled],
                [responses[i] for i in ruled],
                workers=workers,
                progress=progress and bool(ruled),
            ),
            strict=True,
        )
    )
    code = [i for i, ex in enumerate(examples) if ex.tests is not None and i not in grades]
    pairs = [(responses[i], str(examples[i].tests)) for i in code]
    grades |= zip(code, grade_many(pairs, workers=workers, progress=progress), strict=True)
    return [
        grades[i] if i in grades else grade_math(responses[i], str(example.answer))
        for i, example in enumerate(examples)
    ]
