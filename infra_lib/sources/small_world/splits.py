"""Train, swap pool, target and test: four splits that share no question, by construction.

A digest of the question decides which split it may ever belong to, whatever the seed or
the sizes. So a problem held out in one study is held out in every study, and base models
pretrained on training questions (see :mod:`.pretraining`) have seen no test question of any.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from infra_lib.errors import ParameterError
from infra_lib.examples import Example, check_disjoint
from infra_lib.sources.small_world import code_tasks, math_stories

DOMAINS = ("math", "code")
SHARES = {"train": 0.34, "swap_pool": 0.32, "target": 0.16, "test": 0.18}
"""Part of all questions that belongs to each split."""
_MISSES = 20_000  # draws without a new question after which a level counts as used up


@dataclass(frozen=True)
class SplitSizes:
    """Examples per split, both domains and all levels together, in equal parts."""

    train: int = 1500
    swap_pool: int = 1500
    target: int = 400
    test: int = 500


@dataclass(frozen=True)
class Splits:
    """The examples of each split, ordered by domain, level and number."""

    train: list[Example]
    swap_pool: list[Example]
    target: list[Example]
    test: list[Example]


def split_of(question: str) -> str:
    """Return the split that a question belongs to, by a digest of its canonical form."""
    digest = hashlib.sha256(question.encode("utf-8")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    for name, share in SHARES.items():
        if position < share:
            return name
        position -= share
    return "test"


def make_splits(
    sizes: SplitSizes,
    *,
    seed: int,
    difficulties: Sequence[int] = (1, 2, 3, 4, 5),
    exploratory_fraction: float = 0.25,
    mend_fraction: float = 0.5,
    conversational_fraction: float = 0.5,
    distinct_across_levels: bool = True,
) -> Splits:
    """Generate the four splits.

    Parameters
    ----------
    sizes
        Examples per split; each domain and level gets an equal part (the first levels one more
        where it does not divide).
    seed
        Of everything drawn. Each split, domain and level draws from its own stream, so the size of
        one split changes nothing in another; a level leaves out what an easier one has (two code
        tasks of different length can do the same).
    difficulties
        Levels, each from 1 to 5.
    exploratory_fraction, mend_fraction, conversational_fraction
        Part of solutions that explore, part of those that mend a slip, part of mathematics told in
        conversation; each from 0 to 1.
    distinct_across_levels
        Whether a level leaves out questions of easier ones, so that no split asks a question twice.

    Raises
    ------
    ParameterError
        For a value out of range, or a level with fewer questions than were asked for.
    """
    _check(sizes, difficulties, exploratory_fraction, mend_fraction, conversational_fraction)
    made = {}
    for split in SHARES:
        examples: list[Example] = []
        taken: set[str] = set()
        cells = [(domain, level) for domain in DOMAINS for level in sorted(difficulties)]
        total = getattr(sizes, split)
        for index, (domain, level) in enumerate(cells):
            count = total // len(cells) + (index < total % len(cells))
            cell = _draw_cell(
                split,
                domain,
                level,
                count,
                frozenset(taken),
                seed=seed,
                exploratory_fraction=exploratory_fraction,
                mend_fraction=mend_fraction,
                conversational_fraction=conversational_fraction,
            )
            examples += cell
            if distinct_across_levels:
                taken |= {str(example.question) for example in cell}
        made[split] = examples
    check_disjoint(**made)
    return Splits(**made)


def _check(
    sizes: SplitSizes, difficulties: Sequence[int], exploratory: float, mend: float, conversational: float
) -> None:
    if (
        not difficulties
        or len(set(difficulties)) != len(difficulties)
        or set(difficulties) - set(range(1, 6))
    ):
        raise ParameterError("difficulties", list(difficulties), "distinct whole numbers from 1 to 5")
    for name, value in (
        ("exploratory_fraction", exploratory),
        ("mend_fraction", mend),
        ("conversational_fraction", conversational),
    ):
        if not 0 <= value <= 1:
            raise ParameterError(name, value, "between 0 and 1")
    for split in SHARES:
        if getattr(sizes, split) < 0:
            raise ParameterError(f"{split}_examples", getattr(sizes, split), "0 or more")


def _draw_cell(
    split: str,
    domain: str,
    level: int,
    count: int,
    taken: frozenset[str],
    *,
    seed: int,
    exploratory_fraction: float,
    mend_fraction: float,
    conversational_fraction: float,
) -> list[Example]:
    """Draw ``count`` examples of one split, domain and level: distinct questions, none ``taken`` before."""
    questions = _questions(split, domain, level, count, taken, seed)
    rng = random.Random(f"words/{seed}/{split}/{domain}/{level}")
    examples = []
    for number, question in enumerate(questions):
        identifier = f"{split}-{domain}-{level}-{number:04d}"
        if isinstance(question, math_stories.Story):
            example = math_stories.write_example(
                rng,
                question,
                identifier=identifier,
                exploratory_fraction=exploratory_fraction,
                mend_fraction=mend_fraction,
                conversational_fraction=conversational_fraction,
            )
        else:
            example = code_tasks.write_example(
                rng,
                question,
                identifier=identifier,
                exploratory_fraction=exploratory_fraction,
                mend_fraction=mend_fraction,
            )
        examples.append(example)
    return examples


@lru_cache(maxsize=256)
def _questions(
    split: str, domain: str, level: int, count: int, taken: frozenset[str], seed: int
) -> tuple[math_stories.Story | code_tasks.Task, ...]:
    rng = random.Random(f"questions/{seed}/{split}/{domain}/{level}")
    draw = math_stories.draw_story if domain == "math" else code_tasks.draw_task
    found: dict[str, math_stories.Story | code_tasks.Task] = {}
    misses = 0
    while len(found) < count:
        question = draw(rng, level)
        key = question.question
        if key in found or key in taken or split_of(key) != split:
            misses += 1
            if misses > _MISSES:
                raise ParameterError(
                    f"{split}_examples",
                    f"{count} {domain} questions of difficulty {level}",
                    f"at most {len(found)} for that level",
                )
            continue
        found[key], misses = question, 0
    return tuple(found.values())
