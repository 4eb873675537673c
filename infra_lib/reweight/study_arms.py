"""The arms of a study, by name: by difficulty, matched in tokens, by influence, and without exploration.

========================  ==============================================================================
arm                       training set
========================  ==============================================================================
``uniform`` … ``easy_easy``  :data:`infra_lib.reweight.arms.ARMS`, as many examples as uniform
``flip_tokens`` …         the same, with as many response tokens as uniform in each domain
``influence``             uniform's examples, weighed by their influence on targets of other problems
``without_exploration``   uniform's examples without the sentences that check or seek another way
``fewer_tokens``          uniform less whole examples, with as many tokens as ``without_exploration``
:data:`UNTUNED`           none: the base model itself, which stands beside every study's arms
========================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import pandas as pd

from infra_lib.errors import ParameterError
from infra_lib.examples import Example
from infra_lib.kinds.removal import with_fewer_tokens, without_exploration
from infra_lib.models import count_response_tokens, encode
from infra_lib.reweight.arms import ARMS, Arm, build_arm
from infra_lib.reweight.guided import GUIDED, guided_arm
from infra_lib.study import Study, StudyArm

STUDY_ARMS: tuple[str, ...] = get_args(StudyArm)
UNTUNED = "untuned"
"""The base model's name among the arms."""

TOKENS = "_tokens"
"""Ending of an arm that is matched in tokens."""


def study_arm(
    name: str,
    study: Study,
    train: Sequence[Example],
    pool: Sequence[Example],
    *,
    tokenized: Callable[[Sequence[Example]], Mapping[str, int]],
    scores: pd.DataFrame | None = None,
) -> Arm:
    """Build an arm of a study.

    Parameters
    ----------
    name
        One of :data:`STUDY_ARMS`.
    train, pool
        The uniform training set, and other problems to take replacements from.
    tokenized
        Returns the response tokens of examples by id.
    scores
        Columns base_seed, target, id, score: influence of ``train``, for the arm ``influence`` alone.

    Raises
    ------
    ParameterError
        For an unknown arm, a pool that is too small, or the arm ``influence`` without scores.
    """
    if name == GUIDED:
        if scores is None:
            raise ParameterError("scores", None, "those of notebook 04 for the arm influence")
        # Each model's scores count as a target, so that the weights rest on all models alike.
        parts = {f"{t} {b}": part for (t, b), part in scores.groupby(["target", "base_seed"])}
        return guided_arm(
            train, {key: dict(zip(part["id"], part["score"], strict=True)) for key, part in parts.items()}
        )
    if name in ("without_exploration", "fewer_tokens"):
        shorter = [without_exploration(example) for example in train]
        if name == "without_exploration":
            changed = sum(a is not b for a, b in zip(train, shorter, strict=True))
            return Arm(name, tuple(shorter), (1.0,) * len(shorter), replaced=changed)
        counts = tokenized(shorter)
        left: dict[str, int] = {}
        for example in shorter:
            left[example.domain] = left.get(example.domain, 0) + counts[example.id]
        own = tokenized(train)
        kept = with_fewer_tokens(train, left, count_tokens=lambda ex: own[ex.id], seed=study.seed)
        return Arm(name, tuple(kept), (1.0,) * len(kept), replaced=0)
    direction = name.removesuffix(TOKENS)
    if direction not in ARMS:
        raise ParameterError("arms", name, "one of " + ", ".join(STUDY_ARMS))
    matched = direction != name
    counts = tokenized([*train, *pool]) if matched else {}
    arm = build_arm(
        direction,
        train,
        pool,
        easy=study.easy,
        hard=study.hard,
        swap_fraction=study.swap_fraction,
        match="tokens" if matched else "examples",
        count_tokens=(lambda ex: counts[ex.id]) if matched else None,
        seed=study.seed,
    )
    return replace(arm, name=name)


def response_tokens(
    tokenizer: Any, examples: Sequence[Example], *, max_tokens: int | None = None
) -> Mapping[str, int]:
    """Return the number of response tokens of each example, by id, without the end token.

    Parameters
    ----------
    max_tokens
        Longest sequence; what is cut off in training does not count.
    """
    if max_tokens is None:
        return count_response_tokens(tokenizer, examples)
    cut: dict[str, Any] = {"end_token": False, "max_tokens": max_tokens}
    return {example.id: encode(tokenizer, example, **cut).n_tokens for example in examples}


def check_arms(study: Study, train: Sequence[Example], pool: Sequence[Example]) -> None:
    """Raise for a pool that is too small for an arm of a study, before anything is trained.

    Tokens are not counted here: an arm that is matched in tokens is checked for its examples.

    Raises
    ------
    ParameterError
        Naming what the pool lacks; or that training examples have none of the difficulties which an arm
        replaces, so that it would be uniform under another name.
    """
    for direction in dict.fromkeys(name.removesuffix(TOKENS) for name in study.arms):
        if direction not in ARMS:
            continue
        arm = study_arm(direction, study, train, pool, tokenized=lambda _: {})
        if ARMS[direction] and study.swap_fraction and not arm.replaced:
            leaving = {
                (domain, level)
                for domain, favoured in ARMS[direction].items()
                for level in (study.easy if favoured == "hard" else study.hard)
            }
            if any((example.domain, example.difficulty) in leaving for example in train):
                rounds = "larger: of no level does it round to one example"
                raise ParameterError("swap_fraction", study.swap_fraction, rounds)
            labelled = sum(example.difficulty is not None for example in train)
            raise ParameterError(
                "arms",
                direction,
                f"left out, or difficulty_from: length: {labelled} of {len(train)} training examples have a "
                "difficulty, and none has one that this arm replaces",
            )


def composition_of(arm: Arm, tokenized: Callable[[Sequence[Example]], Mapping[str, int]]) -> pd.DataFrame:
    """Return what an arm trains on: arm, domain, difficulty, examples, tokens, mean_weight."""
    counts = tokenized(arm.examples)
    return pd.DataFrame(arm.describe(lambda example: counts[example.id]))


PAIRS = (
    ("reverse", "flip"),
    ("reverse_tokens", "flip_tokens"),
    ("hard_hard", "easy_easy"),
    ("fewer_tokens", "without_exploration"),
)
"""Pairs that are compared beside each arm's comparison with uniform."""


def compared(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of arms that a study compares: each with uniform, and those of :data:`PAIRS`.

    Without uniform every pair is compared. Uniform comes before ``without_exploration``, as the paper reports
    the effect of exploration.
    """
    if "uniform" not in arms:
        return [(a, b) for i, b in enumerate(arms) for a in arms[i + 1 :]]
    with_uniform = [(arm, "uniform") for arm in arms if arm != "uniform"]
    turned = [(b, a) if a == "without_exploration" else (a, b) for a, b in with_uniform]
    return [*turned, *(pair for pair in PAIRS if set(pair) <= set(arms))]
