"""Code tasks: write ``f(x)`` that takes a list of numbers through 1 to 5 steps.

Steps map the lexicon's operations over the list, filter, order or slice it; the result is
the list, its sum, largest, smallest or length. The response plans in words and then writes
the program, one line per step. Programs are graded by running them on hidden lists.

A level-2 task and its solution::

    Write f(x) for a list x. First each number rises by 4. Then keep only numbers above 20. Finally
    return the sum.
    First each number rises by 4, so v + 4. Next keep only numbers above 20, so v > 20. Finally return
    the sum.
    ```python
    def f(x):
        x = [v + 4 for v in x]
        x = [v for v in x if v > 20]
        return sum(x)
    ```
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from functools import cache

from infra_lib.examples import Example
from infra_lib.sources.small_world.explore import Exploration, Solution, draw_exploration
from infra_lib.sources.small_world.operations import Operation, draw_operation, told_order

RESULTS = {
    "list": ("the list", "x"),
    "sum": ("the sum", "sum(x)"),
    "max": ("the largest", "max(x, default=0)"),
    "min": ("the smallest", "min(x, default=0)"),
    "len": ("the length", "len(x)"),
}
"""What a task returns: its words and its Python expression; the largest of nothing is 0."""

_KINDS = {"map": 0.55, "filter": 0.23, "order": 0.12, "slice": 0.10}
_PROBES = 24
HIDDEN_TESTS = 16


@dataclass(frozen=True)
class Step:
    """One step on the list.

    Attributes
    ----------
    kind
        ``map``, ``filter``, ``order`` or ``slice``.
    name
        For a map the operation's name, else above, below, even, odd, reverse, sort, sort_down, first, last.
    number
        Threshold or count, where the step has one.
    operation
        The operation of a map.
    """

    kind: str
    name: str
    number: int = 0
    operation: Operation | None = None

    def words(self, rng: random.Random) -> str:
        """Tell the step as a clause."""
        if self.operation:
            return f"each number {self.operation.phrase(rng)}"
        return {
            "above": f"keep only numbers above {self.number}",
            "below": f"keep only numbers below {self.number}",
            "even": "keep only even numbers",
            "odd": "keep only odd numbers",
            "reverse": "reverse the list",
            "sort": "sort the list from small to large",
            "sort_down": "sort the list from large to small",
            "first": f"keep the first {self.number}",
            "last": f"keep the last {self.number}",
        }[self.name]

    @property
    def core(self) -> str:
        """The expression that the plan names."""
        if self.operation:
            return self.operation.expression("v")
        return {
            "above": f"v > {self.number}",
            "below": f"v < {self.number}",
            "even": "v % 2 == 0",
            "odd": "v % 2 == 1",
            "reverse": "x[::-1]",
            "sort": "sorted(x)",
            "sort_down": "sorted(x)[::-1]",
            "first": f"x[:{self.number}]",
            "last": f"x[-{self.number}:]",
        }[self.name]

    @property
    def line(self) -> str:
        """The step's line of the program."""
        if self.kind == "map":
            return f"x = [{self.core} for v in x]"
        if self.kind == "filter":
            return f"x = [v for v in x if {self.core}]"
        return f"x = {self.core}"

    def apply(self, x: list[int]) -> list[int]:
        """Return the list after the step."""
        if self.operation:
            return [self.operation.apply(v) for v in x]
        n = self.number
        match self.name:
            case "above":
                return [v for v in x if v > n]
            case "below":
                return [v for v in x if v < n]
            case "even":
                return [v for v in x if v % 2 == 0]
            case "odd":
                return [v for v in x if v % 2 == 1]
            case "reverse":
                return x[::-1]
            case "sort":
                return sorted(x)
            case "sort_down":
                return sorted(x)[::-1]
            case "first":
                return x[:n]
            case _:
                return x[-n:]


@dataclass(frozen=True)
class Task:
    """A question: the steps and what is returned."""

    steps: tuple[Step, ...]
    result: str

    def run(self, x: list[int]) -> int | list[int]:
        """Return what a right program returns for ``x``."""
        for step in self.steps:
            x = step.apply(x)
        match self.result:
            case "sum":
                return sum(x)
            case "max":
                return max(x, default=0)
            case "min":
                return min(x, default=0)
            case "len":
                return len(x)
            case _:
                return x

    @property
    def program(self) -> str:
        """The reference program."""
        lines = [*(step.line for step in self.steps), f"return {RESULTS[self.result][1]}"]
        return "def f(x):\n" + "".join(f"    {line}\n" for line in lines)

    @property
    def question(self) -> str:
        """Canonical form: a digest of the task's *behaviour* on fixed probe lists.

        Two tasks that compute the same function are one question, however they are told, so a
        split by question leaves no twin of a test problem in the training data.
        """
        behaviour = json.dumps([self.run(list(x)) for x in _probe_lists()])
        return "code: " + hashlib.sha256(behaviour.encode()).hexdigest()[:20]


def random_lists(rng: random.Random, count: int) -> list[list[int]]:
    """Return lists of 4 to 9 numbers from 0 to 99, small and large ones mixed."""
    lists = []
    for i in range(count):
        top = (99, 30, 60)[i % 3]
        lists.append([rng.randint(0, top) for _ in range(rng.randint(4, 9))])
    return lists


@cache
def _probe_lists() -> tuple[list[int], ...]:
    return (list(range(100)), *random_lists(random.Random("probes"), _PROBES))


def draw_step(rng: random.Random) -> Step:
    """Draw one step by kind, then by name and number."""
    kind = rng.choices(list(_KINDS), weights=list(_KINDS.values()))[0]
    if kind == "map":
        operation = draw_operation(rng)
        return Step("map", operation.name, operation=operation)
    if kind == "filter":
        name = rng.choices(("above", "below", "even", "odd"), weights=(4, 4, 2, 2))[0]
        number = {"above": rng.randint(5, 70), "below": rng.randint(20, 90)}
        return Step("filter", name, number.get(name, 0))
    if kind == "order":
        return Step("order", rng.choice(("reverse", "sort", "sort_down")))
    return Step("slice", rng.choice(("first", "last")), rng.randint(1, 5))


def draw_task(rng: random.Random, difficulty: int) -> Task:
    """Draw a task of ``difficulty`` steps, each of which changes what the task computes."""
    while True:
        task = Task(tuple(draw_step(rng) for _ in range(difficulty)), rng.choice(list(RESULTS)))
        outputs = [str(task.run(list(x))) for x in _probe_lists()]
        # A step without effect on the result, or a constant result, would make the level a lie.
        if len(set(outputs)) > 4 and all(
            any(
                str(_without(task, i).run(list(x))) != out
                for x, out in zip(_probe_lists(), outputs, strict=True)
            )
            for i in range(difficulty)
        ):
            return task


def _without(task: Task, index: int) -> Task:
    return Task(task.steps[:index] + task.steps[index + 1 :], task.result)


def write_example(
    rng: random.Random, task: Task, *, identifier: str, exploratory_fraction: float, mend_fraction: float
) -> Example:
    """Tell a task in words and write its plan, its program and its hidden tests."""
    exploration = draw_exploration(rng, len(task.steps), exploratory_fraction, mend_fraction)
    words = [step.words(rng) for step in task.steps]
    told = " ".join(_tell(rng, words))
    prompt = f"Write f(x) for a list x. {told} Finally return {RESULTS[task.result][0]}.\n"
    solution = _solve(rng, task, words, exploration)
    tests = [{"args": [x], "expected": task.run(list(x))} for x in random_lists(rng, HIDDEN_TESTS)]
    return Example(
        id=identifier,
        domain="code",
        prompt=prompt,
        response=solution.text,
        difficulty=len(task.steps),
        category=max(_KINDS, key=lambda kind: sum(step.kind == kind for step in task.steps)),
        tests=json.dumps(tests),
        question=task.question,
        sentences=tuple(solution.sentences),
    )


def _tell(rng: random.Random, words: list[str]) -> list[str]:
    sentences: list[str] = []
    for group in told_order(rng, len(words)):
        opening = "First " if not sentences else rng.choice(("Then ", "Next ", "After that "))
        if len(group) == 1:
            text = opening + words[group[0]]
        else:
            later, earlier = (words[i] for i in group)
            text = f"{opening}{later}, but before that {earlier}"
        sentences.append(text[0].upper() + text[1:] + ".")
    return sentences


def _solve(rng: random.Random, task: Task, words: list[str], exploration: Exploration) -> Solution:
    solution = Solution()
    for i, step in enumerate(task.steps):
        opening = "First" if i == 0 else rng.choice(("Next", "Then", "After that"))
        manner = exploration.manner if exploration.at == i else None
        core = _slipped(rng, step) if manner == "mend" else step.core
        solution.say(f"{opening} {words[i]}, so {core}.", "step")
        if manner == "mend":
            solution.say(f"Wait, that is wrong: {step.core}.", "mend")
        elif manner == "check":
            solution.say(_checked(rng, step), "check")
        elif manner == "alternative":
            solution.say(f"Alternatively, work it again: {step.core}, the same.", "alternative")
    solution.say(f"Finally return {RESULTS[task.result][0]}.", "conclusion")
    solution.say(f"```python\n{task.program}```", "program", separator="\n")
    return solution


def _slipped(rng: random.Random, step: Step) -> str:
    """Return the core of another step of the same kind."""
    while True:
        other = draw_step(rng)
        if other.kind == step.kind and other.core != step.core:
            return other.core


def _checked(rng: random.Random, step: Step) -> str:
    """Return a sentence that tries the step on a small case."""
    if step.operation:
        value = rng.randint(20, 40)
        return f"Wait, let me check: {step.operation.working(value)}, so it fits."
    sample = [rng.randint(1, 60) for _ in range(3)]
    return f"Wait, let me check: {sample} gives {step.apply(sample)}, so it fits."
