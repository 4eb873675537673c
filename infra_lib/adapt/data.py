"""A folder of examples to begin with: word problems and small programs, generated, nothing downloaded.

``train.jsonl`` and ``target.jsonl`` are what ``infra adapt`` reads; ``test.jsonl`` is there for a study of
one's own, whose exam needs problems that neither training nor target has seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from infra_lib.errors import ParameterError
from infra_lib.examples import Example, check_disjoint, write_jsonl
from infra_lib.files import replacing
from infra_lib.sources.registry import load
from infra_lib.sources.small_world import SplitSizes, make_splits

TRAIN, TARGET, TEST = "train.jsonl", "target.jsonl", "test.jsonl"


def write_examples(
    folder: Path, *, train: int = 64, target: int = 16, test: int = 16, seed: int = 0
) -> dict[str, list[Example]]:
    """Write the three files, half mathematics (gsm_symbolic) and half code (the small world's tasks).

    Parameters
    ----------
    train, target, test
        Examples of each file; even numbers.
    seed
        The same seed gives the same bytes.

    Returns
    -------
    dict
        File name to its examples; no two files share a question.

    Raises
    ------
    ParameterError
        For a number that is odd or below 2, or a folder that holds other files of these names.
    """
    for name, size in (("--train", train), ("--target", target), ("--test", test)):
        if size < 2 or size % 2:
            raise ParameterError(name, size, "an even number from 2, half of it of each domain")
    halves = [train // 2, target // 2, test // 2]
    math, code = _problems(sum(halves), seed), _programs(halves, seed)
    cuts = np.cumsum([0, *halves])
    files = {name: math[cuts[k] : cuts[k + 1]] + code[k] for k, name in enumerate((TRAIN, TARGET, TEST))}
    check_disjoint(**{name.removesuffix(".jsonl"): rows for name, rows in files.items()})
    for name, rows in files.items():
        _write(folder / name, rows)
    return files


def _write(path: Path, rows: Sequence[Example]) -> None:
    """Write a file whole, unless another one has its name."""
    with replacing(path) as temporary:
        write_jsonl(temporary, rows)
        if path.exists() and path.read_bytes() != temporary.read_bytes():
            raise ParameterError("--out", str(path.parent), f"a folder without another {path.name}")


def _problems(size: int, seed: int) -> list[Example]:
    """Return word problems after GSM8K; difficulty is the number of lines that calculate, at most 5."""
    found: dict[str, Example] = {}
    # Templates are drawn with repetition, and a few draws give the same numbers too.
    for example in load("gsm_symbolic", size=2 * size + 20, seed=seed, progress=False).examples:
        steps = sum("=" in line for line in example.response.splitlines())
        found.setdefault(str(example.question), replace(example, difficulty=min(5, max(1, steps))))
    return list(found.values())[:size]


def _programs(halves: Sequence[int], seed: int) -> list[list[Example]]:
    """Return code tasks of each file, of all difficulties."""
    # Twice as many of both domains and some more hold enough of one.
    train, target, test = (3 * half + 20 for half in halves)
    splits = make_splits(SplitSizes(train=train, swap_pool=0, target=target, test=test), seed=seed)
    chosen = []
    for half, split in zip(halves, (splits.train, splits.target, splits.test), strict=True):
        tasks = [example for example in split if example.domain == "code"]
        drawn = np.random.default_rng(seed).permutation(len(tasks))[:half]
        chosen.append([tasks[k] for k in sorted(drawn)])
    return chosen


def counted(files: dict[str, list[Example]], folder: Path) -> list[str]:
    """Return one line per file: where it is and how many examples of each domain it holds."""
    return [
        f"{folder / name}: "
        + ", ".join(f"{n} {domain}" for domain, n in sorted(Counter(e.domain for e in rows).items()))
        for name, rows in files.items()
    ]
