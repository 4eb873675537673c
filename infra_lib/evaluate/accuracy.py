"""Put a model through an exam: draw answers, grade, and tabulate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from infra_lib.errors import ParameterError
from infra_lib.evaluate import sandbox
from infra_lib.evaluate.generate import Engine, Sampling, answer
from infra_lib.evaluate.grade_code import WORKERS, grade_many
from infra_lib.evaluate.grade_math import grade_math
from infra_lib.evaluate.grades import Grade
from infra_lib.evaluate.official import EXECUTED, Running, grade_each
from infra_lib.examples import Example


def evaluate(
    engine: Engine,
    problems: Sequence[Example],
    sampling: Sampling,
    *,
    store: Path | None = None,
    isolation: str = "auto",
    workers: int = WORKERS,
    progress: bool = True,
) -> pd.DataFrame:
    """Answer every problem ``sampling.samples`` times and grade the answers.

    Problems that name an official rule are graded by it, others with ``tests`` by execution, the rest by
    their ``answer``. ``workers`` programs run at a time, walled off as ``isolation`` says
    (:func:`infra_lib.evaluate.sandbox.run`).

    Parameters
    ----------
    engine, sampling
        What draws answers, and how.
    store
        Folder that keeps answers as they come, so that an interrupted exam goes on.

    Returns
    -------
    pandas.DataFrame
        id, domain, difficulty, category, sample, response, finish_reason, n_tokens, correct, reason;
        in the order of problems and samples. :func:`infra_lib.pass_at_k.pass_at_k_table` takes it as it is.

    Raises
    ------
    ParameterError
        For a problem with neither rule, tests nor answer, before anything is generated.
    SandboxError
        Where programs cannot be walled off in that way, likewise.
    """
    for problem in problems:
        if problem.scoring is None and problem.tests is None and problem.answer is None:
            raise ParameterError(f"example {problem.id}", None, "gradable: it needs tests or an answer")
    if any(_is_executed(problem) for problem in problems):
        sandbox.resolve(isolation)
    drawn = answer(engine, problems, sampling, store=store, progress=progress)
    known = {problem.id: problem for problem in problems}
    asked = [known[name] for name in drawn["id"]]
    grades = grade_all(
        asked, drawn["response"].tolist(), isolation=isolation, workers=workers, progress=progress
    )
    return pd.DataFrame(
        {
            "id": drawn["id"].to_numpy(),
            "domain": [problem.domain for problem in asked],
            "difficulty": pd.array([problem.difficulty for problem in asked], dtype="Int64"),
            "category": [problem.category for problem in asked],
            **{name: drawn[name].to_numpy() for name in ("sample", "response", "finish_reason", "n_tokens")},
            "correct": [grade.correct for grade in grades],
            "reason": [grade.reason for grade in grades],
        }
    )


def _is_executed(problem: Example) -> bool:
    """Return whether a problem's answers are graded by running them."""
    return problem.scoring in EXECUTED if problem.scoring is not None else problem.tests is not None


def grade_all(
    examples: Sequence[Example],
    responses: Sequence[str],
    *,
    isolation: str = "auto",
    workers: int = WORKERS,
    progress: bool = True,
) -> list[Grade]:
    """Grade one response per example, by its official rule where it names one."""
    code = [i for i, ex in enumerate(examples) if ex.tests is not None and ex.scoring is None]
    pairs = [(responses[i], str(examples[i].tests)) for i in code]
    graded = grade_many(pairs, isolation=isolation, workers=workers, progress=progress)
    executed = dict(zip(code, graded, strict=True))
    executed |= _by_rule(examples, responses, Running(isolation=isolation), workers, progress)
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
