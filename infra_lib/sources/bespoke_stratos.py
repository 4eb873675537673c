"""Bespoke-Stratos-17k: 17k problems with traces of DeepSeek-R1, in the format of Sky-T1.

Columns: ``system`` and ``conversations``. There is no column for domain, source or difficulty: the
domain comes from the problem's first words (:mod:`infra_lib.sources.traces`), difficulty is None.
By its authors' recipe the set mixes NuminaMath (math, olympiads, amc_aime), APPS, TACO and STILL-2;
which row is from which is not published with it. Difficulty can be added from measured pass rates
(:func:`infra_lib.sources.difficulty.with_pass_rates`), and is read from a column where a copy has one.
"""

from __future__ import annotations

from infra_lib.examples import Example
from infra_lib.sources import difficulty, traces
from infra_lib.sources.context import Context
from infra_lib.sources.rows import Dropped, Row, optional_text, value


def parse(row: Row, context: Context) -> Example | Dropped:
    """Return a row as an example: the recipe's system text, the problem, the whole trace."""
    problem, solution = traces.turns(row.values)
    domain, category = traces.domain_of(problem)
    if domain not in context.domains:
        return Dropped(f"domain {domain}")
    return Example(
        id=f"{context.name}/{context.split}/{context.index}",
        domain=domain,
        prompt=problem,
        response=solution,
        difficulty=difficulty.from_columns(row.values),
        category=str(value(row.values, "source", default=category)) if category else None,
        answer=traces.answer_of(solution) if domain == "math" else None,
        question=traces.question_of(problem),
        system=optional_text(row.values, "system").strip() or None,
    )
