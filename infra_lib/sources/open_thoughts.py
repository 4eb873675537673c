"""OpenThoughts-114k: 114k problems with traces of DeepSeek-R1; the paper's swap pool, as far as is known.

Two configurations of the same rows:

* ``default``: ``system`` and ``conversations``, as in Bespoke-Stratos-17k;
* ``metadata``: ``problem``, ``deepseek_reasoning``, ``deepseek_solution``, ``ground_truth_solution``,
  ``domain``, ``source``, ``test_cases`` and ``starter_code`` (the last two for code).

From ``metadata`` the conversation is put together as the authors' recipe does it, so both
configurations give the same prompt and response; domain and source come from their columns. The
science and puzzle domains (biology, chemistry, physics, puzzle) count as ``other``. Neither
configuration has a difficulty: it is None, unless a copy has a column for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from infra_lib.examples import Example
from infra_lib.sources import bespoke_stratos, difficulty, traces
from infra_lib.sources.context import Context
from infra_lib.sources.rows import BadRow, Dropped, Row, optional_text, shorten, text, value


def parse(row: Row, context: Context) -> Example | Dropped:
    """Return a row of either configuration as an example."""
    if value(row.values, "conversations") is not None:
        return bespoke_stratos.parse(row, context)
    named = text(row.values, "domain").lower()
    domain = named if named in ("math", "code") else "other"
    if domain not in context.domains:
        return Dropped(f"domain {domain}")
    reasoning, final = text(row.values, "deepseek_reasoning"), text(row.values, "deepseek_solution")
    solution = "\n\n".join(
        [traces.THOUGHT[0], reasoning, traces.THOUGHT[1], traces.SOLUTION[0], final, traces.SOLUTION[1]]
    )
    traces.check_tags(solution)
    prompt = _prompt(row.values, domain)
    truth = optional_text(row.values, "ground_truth_solution")
    return Example(
        id=f"{context.name}/{context.split}/{context.index}",
        domain=domain,
        prompt=prompt,
        response=solution,
        difficulty=difficulty.from_columns(row.values),
        category=optional_text(row.values, "source") or named,
        answer=(traces.answer_of(truth) or traces.answer_of(solution)) if domain == "math" else None,
        question=traces.question_of(prompt),
    )


def _prompt(row: Mapping[str, Any], domain: str) -> str:
    problem = text(row, "problem")
    if domain == "math":
        return f"{traces.MATH_PREFIX} {problem}"
    if domain != "code":
        return problem
    if _function_name(row):
        how = " Return the function body without invoking it at the final solution."
    else:
        how = " The function should take stdin as input and print the output. "
        how += "Simply call the function after the definition."
    starter = value(row, "starter_code")
    # The recipe puts no space between its sentence and the problem.
    return traces.CODE_PREFIX + how + problem + (f"\n{starter}" if starter is not None else "")


def _function_name(row: Mapping[str, Any]) -> str | None:
    cases = optional_text(row, "test_cases")
    if not cases.strip():
        return None
    try:
        found = json.loads(cases)
    except (ValueError, RecursionError):
        raise BadRow(f"test_cases is no JSON ({shorten(cases)})") from None
    return found.get("fn_name") if isinstance(found, dict) else None
