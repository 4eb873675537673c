"""An exam with several sampled answers per problem, by any engine, kept as it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from infra_lib.errors import ParameterError
from infra_lib.evaluate.accuracy import grade_all
from infra_lib.evaluate.generate import Sampling, answer
from infra_lib.evaluate.generate.sampling import Engine
from infra_lib.examples import Example


def sit_exam(
    engine: Engine,
    problems: Sequence[Example],
    sampling: Sampling,
    *,
    store: Path | None = None,
    workers: int = 2,
    progress: bool = True,
) -> pd.DataFrame:
    """Answer every problem ``sampling.samples`` times and grade the answers.

    Parameters
    ----------
    store
        Folder that keeps finished answers (:mod:`infra_lib.evaluate.generate.answers`).

    Returns
    -------
    pandas.DataFrame
        id, domain, difficulty, category, sample, response, finish_reason, n_tokens, seed, sampling,
        prompt, correct, reason; :func:`infra_lib.pass_at_k.pass_at_k_table` takes it as it is.

    Raises
    ------
    ParameterError
        For a problem with neither tests nor answer, before anything is generated.
    """
    for problem in problems:
        if problem.tests is None and problem.answer is None:
            raise ParameterError(f"example {problem.id}", None, "gradable: it needs tests or an answer")
    drawn = answer(engine, problems, sampling, store=store, progress=progress)
    known = {problem.id: problem for problem in problems}
    asked = [known[name] for name in drawn["id"]]
    grades = grade_all(asked, drawn["response"].tolist(), workers=workers, progress=progress)
    about = {
        "domain": [problem.domain for problem in asked],
        "difficulty": pd.array([problem.difficulty for problem in asked], dtype="Int64"),
        "category": [problem.category for problem in asked],
    }
    for position, (name, values) in enumerate(about.items(), start=1):
        drawn.insert(position, name, values)
    return drawn.assign(
        correct=[grade.correct for grade in grades], reason=[grade.reason for grade in grades]
    )
