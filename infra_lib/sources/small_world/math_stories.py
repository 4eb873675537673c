"""Mathematics stories: a quantity goes through 1 to 5 operations, and the question is what is left.

Two categories tell the same questions. *Conversational* problems speak of people and
things in the lexicon's phrases; *symbolic* ones write assignments, as code does.

A level-2 conversational problem and its solution::

    Tom has 12 stamps. First the number rises by 4. Then the number doubles. How many stamps does Tom
    have?
    Start with 12. First it rises by 4, so 12 + 4 = 16. Next it doubles, so 16 * 2 = 32. Therefore the
    answer is 32.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from infra_lib.examples import Example
from infra_lib.sources.small_world.explore import (
    Exploration,
    Solution,
    confirm_alternative,
    confirm_check,
    draw_exploration,
    slip,
)
from infra_lib.sources.small_world.operations import Operation, draw_operation, tell

NAMES = ("Tom", "Mia", "Ana", "Ben", "Zoe", "Sam", "Eva", "Leo")
THINGS = ("stamps", "coins", "books", "shells", "cards", "apples", "beads", "stones")
ORDINALS = ("First", "Next", "Then", "After that", "Now")


@dataclass(frozen=True)
class Story:
    """A question: the start value and the operations, in the order in which they happen."""

    start: int
    operations: tuple[Operation, ...]

    @property
    def values(self) -> list[int]:
        """The value after each operation, the start first."""
        values = [self.start]
        for op in self.operations:
            values.append(op.apply(values[-1]))
        return values

    @property
    def question(self) -> str:
        """Canonical form, whatever the words."""
        return "math: " + " | ".join([str(self.start), *(op.key for op in self.operations)])


def draw_story(rng: random.Random, difficulty: int) -> Story:
    """Draw a story of ``difficulty`` operations whose values all lie in 0..99 and move at each step."""
    while True:
        start = rng.randint(1, 99)
        story = Story(start, tuple(draw_operation(rng) for _ in range(difficulty)))
        values = story.values
        moves = all(a != b for a, b in itertools.pairwise(values))
        if moves and all(0 <= value <= 99 for value in values):
            return story


def write_example(
    rng: random.Random,
    story: Story,
    *,
    identifier: str,
    exploratory_fraction: float,
    mend_fraction: float,
    conversational_fraction: float,
) -> Example:
    """Tell a story in words or symbols and write its worked solution."""
    conversational = rng.random() < conversational_fraction
    exploration = draw_exploration(rng, len(story.operations), exploratory_fraction, mend_fraction)
    phrases = [op.phrase(rng) for op in story.operations]
    prompt = _conversational(rng, story, phrases) if conversational else _symbolic(rng, story)
    solution = _solve(rng, story, phrases, conversational, exploration)
    return Example(
        id=identifier,
        domain="math",
        prompt=prompt + "\n",
        response=solution.text,
        difficulty=len(story.operations),
        category="conversational" if conversational else "symbolic",
        answer=str(story.values[-1]),
        question=story.question,
        sentences=tuple(solution.sentences),
    )


def _conversational(rng: random.Random, story: Story, phrases: list[str]) -> str:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    steps = " ".join(tell(rng, "the number", phrases))
    return f"{name} has {story.start} {thing}. {steps} How many {thing} does {name} have?"


def _symbolic(rng: random.Random, story: Story) -> str:
    steps = " ".join(tell(rng, "x =", [op.expression("x") for op in story.operations]))
    return f"Let x = {story.start}. {steps} Find x."


def _solve(
    rng: random.Random, story: Story, phrases: list[str], conversational: bool, exploration: Exploration
) -> Solution:
    solution = Solution()
    values = story.values
    solution.say(f"Start with {story.start}.", "setup")
    for i, op in enumerate(story.operations):
        x, y = values[i], values[i + 1]
        opening = "First" if i == 0 else rng.choice(ORDINALS[1:])
        told = f"it {phrases[i]}" if conversational else f"x = {op.expression('x')}"
        wrong = slip(rng, y) if exploration.at == i and exploration.manner == "mend" else None
        solution.say(f"{opening} {told}, so {op.working(x, wrong)}.", "step")
        if exploration.at == i:
            match exploration.manner:
                case "mend":
                    solution.say(f"Wait, that is wrong: {op.working(x)}.", "mend")
                case "check":
                    solution.say(confirm_check(op, x), "check")
                case "alternative":
                    solution.say(confirm_alternative(op, x), "alternative")
        if i + 1 < len(story.operations) and rng.random() < 0.1:
            solution.say(f"So far we have {y}.", "connector")
    closing = rng.choice(("Therefore", "Thus", "So"))
    solution.say(f"{closing} the answer is {values[-1]}.", "conclusion")
    return solution
