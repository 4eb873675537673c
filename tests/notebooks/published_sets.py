"""Training sets in the hub's format, written by us: traces of many lengths, enough for a study's arms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
SYSTEM = "Your role as an assistant is to think at length before you give the solution."
TURNS = ("Wait, let me check that.", "Alternatively, count them one by one.", "So it holds.")


def math_row(number: int) -> dict[str, str]:
    """Return a word problem with a trace; the longer, the larger ``number`` modulo ten."""
    rows, each = 3 + number, 12 + number % 7
    steps = [f"Row {k} brings it to {k} * {each} = {k * each}." for k in range(1, 2 + number % 10)]
    return {
        "problem": f"A gardener plants {rows} rows of {each} tulips in bed {number}. How many are there?",
        "reasoning": "\n\n".join([*steps, TURNS[number % 3]]),
        "solution": f"There are {rows * each} tulips.\n\n\\boxed{{{rows * each}}}",
        "domain": "math",
        "source": "numina_math",
    }


def code_row(number: int) -> dict[str, str]:
    """Return a programming problem with a trace, likewise."""
    steps = [f"{k}. Take value {k} and add {number}." for k in range(1, 2 + number % 10)]
    program = f"values = list(map(int, open(0).read().split()))\nprint(max(values) - min(values) + {number})"
    return {
        "problem": f"Read an integer n and n integers. Print the largest minus the smallest, plus {number}.",
        "reasoning": "\n".join(steps) + f"\n\n{TURNS[number % 3]}",
        "solution": f"```python\n{program}\n```",
        "domain": "code",
        "source": "taco",
    }


def science_row() -> dict[str, str]:
    """Return a problem of neither domain, which a study leaves out."""
    return {
        "problem": "Why does a metal spoon feel colder than a wooden one?",
        "reasoning": "Metal conducts heat better.",
        "solution": "Metal carries heat away from the hand faster.",
        "domain": "physics",
        "source": "camel_physics",
    }


def as_stratos(row: dict[str, str]) -> dict[str, Any]:
    """Return a row in the format of Bespoke-Stratos-17k."""
    first = {
        "math": "Return your final response within \\boxed{}. ",
        "code": "Generate an executable Python function generated from the given prompt. The function should "
        "take stdin as input and print the output. Simply call the function after the definition.",
    }.get(row["domain"], "")
    trace = "\n\n".join(
        [
            "<|begin_of_thought|>",
            row["reasoning"],
            "<|end_of_thought|>",
            "<|begin_of_solution|>",
            row["solution"],
            "<|end_of_solution|>",
        ]
    )
    turns = [{"from": "user", "value": first + row["problem"]}, {"from": "assistant", "value": trace}]
    return {"system": SYSTEM, "conversations": turns}


def as_open_thoughts(row: dict[str, str]) -> dict[str, Any]:
    """Return a row in the format of OpenThoughts-114k, configuration ``metadata``."""
    return {
        "problem": row["problem"],
        "deepseek_reasoning": row["reasoning"],
        "deepseek_solution": row["solution"],
        "ground_truth_solution": None,
        "domain": row["domain"],
        "source": row["source"],
        "test_cases": None,
        "starter_code": None,
    }


def write_data(folder: Path, *, train: int, pool: int, repeated: int) -> Path:
    """Write a data folder: both training sets, and the benchmarks of the fixtures.

    Parameters
    ----------
    train, pool
        Rows of mathematics, and as many of code, in Bespoke-Stratos and in OpenThoughts.
    repeated
        Of the pool's, rows of each domain that ask what the training set asks.
    """
    shutil.copytree(FIXTURES, folder)
    numbers = {
        "bespoke_stratos/data": (range(train), as_stratos),
        "open_thoughts/metadata": (range(train - repeated, train - repeated + pool), as_open_thoughts),
    }
    (folder / "open_thoughts" / "README.md").unlink()  # its card promises the fixture's own number of rows
    for place, (chosen, written) in numbers.items():
        rows = [written(made(number)) for number in chosen for made in (math_row, code_row)]
        rows.append(written(science_row()))
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / place / "train.jsonl").write_text(lines, encoding="utf-8")
    return folder
