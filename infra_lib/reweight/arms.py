"""Arms: training sets that shift the difficulty of each domain, and their weights.

The paper's intervention replaces easy mathematics by hard and hard code by easy (the
*flip*), taking the replacements from a pool of other problems. An :class:`Arm` is such
a training set. Each arm states, per domain, whether it moves towards ``hard``, towards
``easy`` or stays:

============  =====  =====
arm           math   code
============  =====  =====
uniform       –      –
flip          hard   easy
reverse       easy   hard
hard_hard     hard   hard
easy_easy     easy   easy
============  =====  =====

Two ways to realise an arm (``mode``): ``swap`` replaces examples from a pool, as the
paper does; ``weight`` keeps every example and weighs the favoured levels ``ratio``
times the others, which changes no problem. Two ways to keep arms comparable
(``match``): ``examples`` keeps the number of examples, as the paper does; ``tokens``
keeps the number of response tokens per domain, since hard problems have longer
solutions.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from infra_lib.errors import ParameterError
from infra_lib.examples import Example

ARMS: dict[str, dict[str, str]] = {
    "uniform": {},
    "flip": {"math": "hard", "code": "easy"},
    "reverse": {"math": "easy", "code": "hard"},
    "hard_hard": {"math": "hard", "code": "hard"},
    "easy_easy": {"math": "easy", "code": "easy"},
}
"""Direction of each arm per domain; a domain not named stays as it is."""


@dataclass(frozen=True)
class Arm:
    """A training set with one positive weight per example (mean one within each domain)."""

    name: str
    examples: tuple[Example, ...]
    weights: tuple[float, ...]
    replaced: int

    def describe(self, count_tokens: Callable[[Example], int]) -> list[dict[str, object]]:
        """Return one row per domain and difficulty (0: none): examples, response tokens, mean weight."""
        groups: dict[tuple[str, int], list[tuple[Example, float]]] = defaultdict(list)
        for example, weight in zip(self.examples, self.weights, strict=True):
            groups[example.domain, example.difficulty or 0].append((example, weight))
        return [
            {
                "arm": self.name,
                "domain": domain,
                "difficulty": level,
                "examples": len(rows),
                "tokens": sum(count_tokens(example) for example, _ in rows),
                "mean_weight": sum(weight for _, weight in rows) / len(rows),
            }
            for (domain, level), rows in sorted(groups.items())
        ]


def build_arm(
    name: str,
    train: Sequence[Example],
    pool: Sequence[Example] = (),
    *,
    easy: Sequence[int] = (1, 2),
    hard: Sequence[int] = (4, 5),
    swap_fraction: float = 1.0,
    mode: str = "swap",
    match: str = "examples",
    ratio: float = 4.0,
    count_tokens: Callable[[Example], int] | None = None,
    seed: int = 0,
) -> Arm:
    """Build an arm's training set from the uniform one.

    Parameters
    ----------
    name
        One of :data:`ARMS`.
    train, pool
        The uniform training set, and other problems to take replacements from.
    easy, hard
        Levels that count as easy and hard, of equal number; the i-th easy level is swapped with
        the i-th hard one. Levels in neither stay.
    swap_fraction
        Part of the disfavoured examples that is replaced, 0 to 1. Our choice: the paper's is not known.
    mode, match, ratio
        See the module docstring.
    count_tokens
        Response tokens of an example; needed to match tokens.
    seed
        Of the choice which examples leave and which take their place.

    Raises
    ------
    ParameterError
        For an unknown arm, mode or match, or a pool with too few examples of a level.
    """
    _check(name, easy, hard, swap_fraction, mode, match, ratio)
    directions = ARMS[name]
    if mode == "weight":
        return _weighted(name, train, directions, tuple(easy), tuple(hard), ratio)
    rng = random.Random(f"{name}/{seed}")
    kept, added = list(train), []
    for domain, direction in sorted(directions.items()):
        source, goal = (easy, hard) if direction == "hard" else (hard, easy)
        for old, new in zip(source, goal, strict=True):
            leaving = _sample(rng, kept, domain, old, swap_fraction)
            added += _take(rng, pool, domain, new, len(leaving), name)
            gone = {example.id for example in leaving}
            kept = [example for example in kept if example.id not in gone]
    examples = kept + added
    if match == "tokens":
        if count_tokens is None:
            raise ParameterError("count_tokens", None, "a function of an example when match is 'tokens'")
        examples = _match_tokens(rng, examples, train, pool, directions, easy, hard, count_tokens)
    # Those that stay keep their places, so that the uniform arm is the training set itself, order and all.
    place = {example.id: index for index, example in enumerate(train)}
    order = sorted(examples, key=lambda example: (place.get(example.id, len(place)), example.id))
    return Arm(name, tuple(order), (1.0,) * len(order), replaced=len(added))


def _check(
    name: str,
    easy: Sequence[int],
    hard: Sequence[int],
    swap_fraction: float,
    mode: str,
    match: str,
    ratio: float,
) -> None:
    for parameter, value, choices in (
        ("arm", name, list(ARMS)),
        ("mode", mode, ["swap", "weight"]),
        ("match", match, ["examples", "tokens"]),
    ):
        if value not in choices:
            raise ParameterError(parameter, value, "one of " + ", ".join(choices))
    if not 0 <= swap_fraction <= 1:
        raise ParameterError("swap_fraction", swap_fraction, "between 0 and 1")
    if not (ratio > 0 and ratio != float("inf")):
        raise ParameterError("ratio", ratio, "a finite number above 0")
    if len(easy) != len(hard) or set(easy) & set(hard):
        raise ParameterError(
            "easy, hard", (list(easy), list(hard)), "two lists of equally many levels without a shared one"
        )


def _sample(
    rng: random.Random, examples: Sequence[Example], domain: str, level: int, fraction: float
) -> list[Example]:
    group = [ex for ex in examples if ex.domain == domain and ex.difficulty == level]
    return rng.sample(group, round(fraction * len(group)))


def _take(
    rng: random.Random, pool: Sequence[Example], domain: str, level: int, count: int, arm: str
) -> list[Example]:
    group = [ex for ex in pool if ex.domain == domain and ex.difficulty == level]
    if len(group) < count:
        raise ParameterError(
            "swap_pool_examples",
            f"{len(group)} {domain} examples of difficulty {level}",
            f"at least {count} for arm {arm}",
        )
    return rng.sample(group, count)


def _match_tokens(
    rng: random.Random,
    examples: Sequence[Example],
    train: Sequence[Example],
    pool: Sequence[Example],
    directions: dict[str, str],
    easy: Sequence[int],
    hard: Sequence[int],
    count_tokens: Callable[[Example], int],
) -> list[Example]:
    """Drop or add examples at random until each domain has the uniform arm's response tokens."""
    matched: list[Example] = []
    for domain in sorted({ex.domain for ex in train}):
        budget = sum(count_tokens(ex) for ex in train if ex.domain == domain)
        own = [ex for ex in examples if ex.domain == domain]
        rng.shuffle(own)
        goal = {"hard": hard, "easy": easy}.get(directions.get(domain, ""), ())
        used = {ex.id for ex in own}
        spare = [ex for ex in pool if ex.domain == domain and ex.difficulty in goal and ex.id not in used]
        rng.shuffle(spare)
        spent, chosen = 0, []
        for example in (*own, *spare):
            cost = count_tokens(example)
            if spent + cost > budget:
                break
            chosen.append(example)
            spent += cost
        else:
            if spent < 0.98 * budget:
                raise ParameterError(
                    "swap_pool_examples",
                    f"{spent} response tokens of {domain}",
                    f"enough to match the uniform arm's {budget} (a larger pool, or match='examples')",
                )
        matched += chosen
    return matched


def _weighted(
    name: str,
    train: Sequence[Example],
    directions: dict[str, str],
    easy: tuple[int, ...],
    hard: tuple[int, ...],
    ratio: float,
) -> Arm:
    """Weigh the favoured levels ``ratio`` times the disfavoured; other levels lie between (√ratio)."""
    raw = []
    for example in train:
        favoured, other = {"hard": (hard, easy), "easy": (easy, hard)}.get(
            directions.get(example.domain, ""), ((), ())
        )
        exponent = 1.0 if example.difficulty in favoured else 0.0 if example.difficulty in other else 0.5
        raw.append(ratio**exponent)
    totals: dict[str, list[float]] = defaultdict(list)
    for example, weight in zip(train, raw, strict=True):
        totals[example.domain].append(weight)
    means = {domain: sum(values) / len(values) for domain, values in totals.items()}
    weights = tuple(weight / means[ex.domain] for ex, weight in zip(train, raw, strict=True))
    return Arm(name, tuple(train), weights, replaced=0)
