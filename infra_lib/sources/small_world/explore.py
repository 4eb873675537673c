"""Exploratory sentences: checks and other ways that confirm, and slips that are caught and mended."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from infra_lib.examples import Sentence
from infra_lib.sources.small_world.operations import Operation


@dataclass
class Solution:
    """A response as it is written: sentences with kinds, joined by single spaces."""

    text: str = ""
    sentences: list[Sentence] = field(default_factory=list)

    def say(self, sentence: str, kind: str, separator: str = " ") -> None:
        """Append a sentence; the separator before it belongs to the sentence before."""
        if self.sentences:
            last = self.sentences[-1]
            self.text += separator
            self.sentences[-1] = Sentence(last.start, len(self.text), last.kind)
        start = len(self.text)
        self.text += sentence
        self.sentences.append(Sentence(start, len(self.text), kind))


@dataclass(frozen=True)
class Exploration:
    """What a solution explores: nothing, or one step (``at``) in one manner.

    ``manner`` is ``check`` (confirms), ``alternative`` (confirms by another way) or ``mend``
    (the step is first written wrong, then caught and put right).
    """

    manner: str | None = None
    at: int = -1


def draw_exploration(rng: random.Random, steps: int, fraction: float, mend_fraction: float) -> Exploration:
    """Draw whether, where and how a solution of ``steps`` steps explores."""
    explores, mends = rng.random() < fraction, rng.random() < mend_fraction
    at, manner = rng.randrange(steps), rng.choice(("check", "alternative"))
    if not explores:
        return Exploration()
    return Exploration("mend" if mends else manner, at)


def slip(rng: random.Random, right: int) -> int:
    """Return a near miss of ``right``, within 0..99."""
    near = [right + d for d in (-10, -2, -1, 1, 2, 10) if 0 <= right + d <= 99]
    return rng.choice(near)


def confirm_check(op: Operation, x: int) -> str:
    """Return a sentence that checks a step, by its inverse where it has one."""
    y = op.apply(x)
    match op.name:
        case "add":
            return f"Wait, let me check: {y} - {op.numbers[0]} = {x}, so it fits."
        case "subtract":
            return f"Wait, let me check: {y} + {op.numbers[0]} = {x}, so it fits."
        case "double":
            return f"Wait, let me check: {y} // 2 = {x}, so it fits."
        case "take_from":
            return f"Wait, let me check: {y} + {x} = {op.numbers[0]}, so it fits."
        case _:
            return f"Wait, let me check: {op.working(x)}, so it fits."


def confirm_alternative(op: Operation, x: int) -> str:
    """Return a sentence that reaches a step's result another way."""
    y = op.apply(x)
    match op.name:
        case "add":
            return f"Alternatively, {op.numbers[0]} + {x} = {y}, the same."
        case "double":
            return f"Alternatively, {x} + {x} = {y}, the same."
        case "triple":
            return f"Alternatively, {x} + {x} + {x} = {y}, the same."
        case _:
            return f"Alternatively, work it again: {op.working(x)}, the same."
