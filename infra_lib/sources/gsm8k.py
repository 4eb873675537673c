"""GSM8K: word problems of the primary school, and the same format from a generator (gsm_symbolic).

Columns: ``question``, and ``answer``, the worked solution with ``<<48/2=24>>`` annotations of its
calculations and a last line ``#### 72``. Configuration ``main``; the test split has 1,319 rows.

Difficulty, our choice: the number of annotated calculations (rule *steps* of
:mod:`infra_lib.sources.difficulty`). The annotations are kept in ``response`` as published.

``gsm_symbolic`` comes from the package reasoning-gym, templates after GSM8K with drawn names and
numbers. Its solutions have no annotations, and most have none that could be counted alike, so
difficulty is None there.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from typing import Any

from infra_lib.answers import last_hashes
from infra_lib.errors import ParameterError
from infra_lib.examples import Example
from infra_lib.sources import difficulty
from infra_lib.sources.context import Context
from infra_lib.sources.rows import BadRow, Row, shorten, text

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def parse(row: Row, context: Context) -> Example:
    """Return a row of GSM8K as an example."""
    question, solution = text(row.values, "question"), text(row.values, "answer")
    answer = last_hashes(solution)
    if answer is None or not _NUMBER.fullmatch(answer):
        raise BadRow(f"answer ends in {shorten(solution[-30:])}; its last line must be #### and a number")
    return Example(
        id=f"gsm8k/{context.split}/{context.index}",
        domain="math",
        prompt=context.prompt(question),
        response=solution,
        difficulty=difficulty.from_steps(solution.count("<<")),
        answer=answer.replace(",", ""),
        question=question,
        scoring="gsm8k",
    )


def symbolic_rows(size: int, seed: int) -> Iterator[Row]:
    """Yield generated rows; row i depends on seed and i (and size, by which templates are drawn).

    Raises
    ------
    ParameterError
        For a size below 1, a seed below 0, or without the package.
    """
    for name, number, least in (("size", size, 1), ("seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ParameterError(name, number, f"a whole number from {least}")
    try:
        import reasoning_gym
    except ImportError:
        raise ParameterError(
            "source",
            "gsm_symbolic",
            "used with the package reasoning-gym: pip install 'infra-companion[smollm2]'",
        ) from None
    generated: Any = reasoning_gym.create_dataset("gsm_symbolic", size=size, seed=seed)
    for number in range(size):
        entry = generated[number]
        yield Row(f"reasoning-gym {version()}, seed {seed}", number + 1, entry)


def parse_symbolic(row: Row, context: Context) -> Example:
    """Return a generated row as an example; the solution must end in the answer that comes beside it."""
    question, answer = text(row.values, "question"), text(row.values, "answer")
    solution = text(row.values["metadata"], "answer_cot")
    stated = last_hashes(solution)
    if stated is None or float(stated.replace(",", "")) != float(answer):
        raise BadRow(f"answer_cot ends in {shorten(stated)}, the answer is {shorten(answer)}")
    return Example(
        id=f"gsm_symbolic/{context.options['seed']}/{context.index}",
        domain="math",
        prompt=context.prompt(question),
        response=solution,
        category="symbolic",
        answer=answer,
        question=question,
        scoring="gsm8k",
    )


def version() -> str:
    """Return the version of reasoning-gym."""
    return importlib.metadata.version("reasoning-gym")
