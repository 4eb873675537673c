"""The broad mix that a base model is pretrained on.

Documents teach the language and the single steps: lists of sums, one-step stories,
commented code, and what order told steps come in. A share is solved problems of
difficulty 3 or less, drawn from questions of the training split only, so that no base
model has seen a target or test question.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from infra_lib.sources.small_world import code_tasks, math_stories
from infra_lib.sources.small_world.operations import draw_operation, tell
from infra_lib.sources.small_world.splits import split_of


def _sums(rng: random.Random) -> str:
    lines: list[str] = []
    while len(lines) < 10:
        op, x = draw_operation(rng), rng.randint(0, 99)
        if 0 <= op.apply(x) <= 99:
            lines.append(op.working(x))
    return "\n".join(lines)


def _story(rng: random.Random) -> str:
    story = math_stories.draw_story(rng, 1)
    name, thing = rng.choice(math_stories.NAMES), rng.choice(math_stories.THINGS)
    op = story.operations[0]
    return (
        f"{name} has {story.start} {thing}. The number {op.phrase(rng)}, so {op.working(story.start)}. "
        f"Now {name} has {story.values[-1]} {thing}."
    )


def _snippet(rng: random.Random) -> str:
    lines = []
    for _ in range(rng.randint(2, 4)):
        step = code_tasks.draw_step(rng)
        lines += [f"# {step.words(rng)}", step.line]
    words, expression = rng.choice(list(code_tasks.RESULTS.values()))
    return "\n".join([*lines, f"# return {words}", f"return {expression}"])


def _ordering(rng: random.Random) -> str:
    operations = [draw_operation(rng) for _ in range(rng.randint(2, 5))]
    if rng.random() < 0.5:
        phrases = [op.phrase(rng) for op in operations]
        told = " ".join(tell(rng, rng.choice(("it", "the number", "each number")), phrases))
    else:
        phrases = [op.expression("x") for op in operations]
        told = " ".join(tell(rng, "x =", phrases))
    return f"{told} In order: " + ", then ".join(phrases) + "."


def _solved_math(rng: random.Random) -> str:
    while True:
        story = math_stories.draw_story(rng, rng.randint(1, 3))
        if split_of(story.question) == "train":
            break
    example = math_stories.write_example(
        rng,
        story,
        identifier="",
        exploratory_fraction=0.25,
        mend_fraction=0.5,
        conversational_fraction=0.5,
    )
    return example.prompt + example.response


def _solved_code(rng: random.Random) -> str:
    while True:
        task = code_tasks.draw_task(rng, rng.choices((1, 2, 3), weights=(5, 3, 2))[0])
        if split_of(task.question) == "train":
            break
    example = code_tasks.write_example(rng, task, identifier="", exploratory_fraction=0.25, mend_fraction=0.5)
    return example.prompt + example.response


MIX: dict[Callable[[random.Random], str], float] = {
    _sums: 0.12,
    _story: 0.08,
    _snippet: 0.13,
    _ordering: 0.20,
    _solved_math: 0.17,
    _solved_code: 0.30,
}
"""Kinds of document and their share of the tokens."""


def pretraining_documents(tokens: int, seed: int, count_tokens: Callable[[str], int]) -> Iterator[str]:
    """Yield documents until they hold ``tokens`` tokens, in the shares of :data:`MIX`.

    The next document is always of the kind furthest behind its share, so the mix is held
    at every point of the stream.
    """
    rng = random.Random(f"pretraining/{seed}")
    spent = dict.fromkeys(MIX, 0)
    while sum(spent.values()) < tokens:
        kind = min(MIX, key=lambda k: spent[k] / MIX[k])
        document = kind(rng)
        spent[kind] += count_tokens(document)
        yield document
