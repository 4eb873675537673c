"""The lexicon: operations on one whole number, told in words, worked in figures, written in Python.

Mathematics stories apply an operation to a quantity, code tasks to every element of a
list, in the same words and the same notation. What a model learns about an operation in
one domain is therefore of use in the other.

>>> op = Operation("add", (4,))
>>> op.apply(12), op.working(12), op.expression("v")
(16, '12 + 4 = 16', 'v + 4')
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PHRASES: dict[str, tuple[str, ...]] = {
    "add": ("rises by {0}", "goes up by {0}"),
    "subtract": ("drops by {0}", "goes down by {0}"),
    "double": ("doubles", "is multiplied by 2"),
    "triple": ("triples", "is multiplied by 3"),
    "halve": ("is halved", "is cut in half"),
    "cap": ("is capped at {0}",),
    "raise": ("is raised to at least {0}",),
    "last_digit": ("keeps only its last digit",),
    "take_from": ("is taken from {0}",),
    "branch": ("rises by {1} if above {0} else drops by {2}",),
}
"""Ways to tell each operation, after the subject ("it", "each number"); halves round down."""

_WEIGHTS = {  # Zipf: the k-th operation has weight 1/k
    name: 1 / rank
    for rank, name in enumerate(
        (
            "add",
            "subtract",
            "double",
            "branch",
            "halve",
            "take_from",
            "cap",
            "triple",
            "raise",
            "last_digit",
        ),
        start=1,
    )
}
_TENS = tuple(range(10, 100, 10))


@dataclass(frozen=True)
class Operation:
    """One operation with its numbers.

    Attributes
    ----------
    name
        A key of :data:`PHRASES`.
    numbers
        Its constants, in the order in which the phrases use them.
    """

    name: str
    numbers: tuple[int, ...] = ()

    def apply(self, x: int) -> int:
        """Return the operation's value at ``x``."""
        n = self.numbers
        match self.name:
            case "add":
                return x + n[0]
            case "subtract":
                return x - n[0]
            case "double":
                return x * 2
            case "triple":
                return x * 3
            case "halve":
                return x // 2
            case "cap":
                return min(x, n[0])
            case "raise":
                return max(x, n[0])
            case "last_digit":
                return x % 10
            case "take_from":
                return n[0] - x
            case _:
                return x + n[1] if x > n[0] else x - n[2]

    def expression(self, x: str | int) -> str:
        """Return the operation as a Python expression in ``x``."""
        n = self.numbers
        match self.name:
            case "add":
                return f"{x} + {n[0]}"
            case "subtract":
                return f"{x} - {n[0]}"
            case "double":
                return f"{x} * 2"
            case "triple":
                return f"{x} * 3"
            case "halve":
                return f"{x} // 2"
            case "cap":
                return f"min({x}, {n[0]})"
            case "raise":
                return f"max({x}, {n[0]})"
            case "last_digit":
                return f"{x} % 10"
            case "take_from":
                return f"{n[0]} - {x}"
            case _:
                return f"{x} + {n[1]} if {x} > {n[0]} else {x} - {n[2]}"

    def working(self, x: int, result: int | None = None) -> str:
        """Return the step worked at ``x``, ending in ``result`` (by default the right one)."""
        y = self.apply(x) if result is None else result
        if self.name != "branch":
            return f"{self.expression(x)} = {y}"
        threshold, gain, loss = self.numbers
        if x > threshold:
            return f"{x} > {threshold} and {x} + {gain} = {y}"
        return f"{x} <= {threshold} and {x} - {loss} = {y}"

    def phrase(self, rng: random.Random) -> str:
        """Return one way to tell the operation."""
        return rng.choice(PHRASES[self.name]).format(*self.numbers)

    @property
    def key(self) -> str:
        """Canonical name with numbers, such as ``add 4``."""
        return " ".join([self.name, *map(str, self.numbers)])


def draw_operation(rng: random.Random) -> Operation:
    """Draw an operation by Zipf weight and its numbers uniformly."""
    name = rng.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))[0]
    match name:
        case "add" | "subtract":
            numbers: tuple[int, ...] = (rng.randint(1, 9),)
        case "cap" | "raise":
            numbers = (rng.choice(_TENS),)
        case "take_from":
            numbers = (rng.choice((20, 30, 40, 50, 60, 70, 80, 90, 99)),)
        case "branch":
            numbers = (rng.choice(_TENS), rng.randint(1, 9), rng.randint(1, 9))
        case _:
            numbers = ()
    return Operation(name, numbers)


def told_order(rng: random.Random, count: int, invert: float = 0.2) -> list[tuple[int, ...]]:
    """Return how ``count`` steps are told: singles (i,), or pairs (i + 1, i) told in inverted order."""
    order: list[tuple[int, ...]] = []
    i = 0
    while i < count:
        if i + 1 < count and rng.random() < invert:
            order.append((i + 1, i))
            i += 2
        else:
            order.append((i,))
            i += 1
    return order


def tell(rng: random.Random, subject: str, phrases: list[str]) -> list[str]:
    """Return sentences that tell the steps in order, some pairs inverted ("but before that").

    ``phrases`` are predicates; ``subject`` comes before each ("it", "each number"), and assignments
    ("x =") keep their small letter.
    """
    sentences: list[str] = []
    for group in told_order(rng, len(phrases)):
        opening = "First " if not sentences else rng.choice(("Then ", "Next ", "After that "))
        if len(group) == 1:
            text = f"{opening}{subject} {phrases[group[0]]}"
        else:
            later, earlier = (phrases[i] for i in group)
            if rng.random() < 0.5:
                text = f"{opening}{subject} {later}, but before that {subject} {earlier}"
            else:
                text = f"Before {subject} {later}, {subject} {earlier}"
        sentences.append((text if text.startswith("x =") else text[0].upper() + text[1:]) + ".")
    return sentences
