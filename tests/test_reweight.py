"""Arms keep what they promise: counts, levels, disjointness, token budgets, weights."""

from __future__ import annotations

from collections import Counter

import pytest

from infra_lib.errors import ParameterError
from infra_lib.examples import Example
from infra_lib.reweight import ARMS, build_arm


def make(split: str, per_level: int) -> list[Example]:
    """Examples whose response length grows with difficulty, as solutions do."""
    return [
        Example(
            id=f"{split}-{domain}-{level}-{i}",
            domain=domain,
            prompt=f"{split} {domain} {level} {i}",
            response="x " * (10 * level + i % 3),
            difficulty=level,
        )
        for domain in ("math", "code")
        for level in range(1, 6)
        for i in range(per_level)
    ]


TRAIN, POOL = make("train", 20), make("pool", 60)


def words(example: Example) -> int:
    return len(example.response.split())


def levels(arm, domain: str) -> Counter:
    return Counter(ex.difficulty for ex in arm.examples if ex.domain == domain)


def test_flip_moves_math_up_and_code_down_and_keeps_the_middle_level() -> None:
    arm = build_arm("flip", TRAIN, POOL)
    assert levels(arm, "math") == {3: 20, 4: 40, 5: 40}
    assert levels(arm, "code") == {1: 40, 2: 40, 3: 20}


def test_reverse_is_the_mirror_of_flip() -> None:
    flip, reverse = build_arm("flip", TRAIN, POOL), build_arm("reverse", TRAIN, POOL)
    assert levels(flip, "math") == levels(reverse, "code")
    assert levels(flip, "code") == levels(reverse, "math")


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_keeps_the_number_of_examples_per_domain_and_no_id_twice(name: str) -> None:
    arm = build_arm(name, TRAIN, POOL, swap_fraction=0.5)
    assert Counter(ex.domain for ex in arm.examples) == {"math": 100, "code": 100}
    assert len({ex.id for ex in arm.examples}) == 200


def test_uniform_is_the_training_set_itself() -> None:
    arm = build_arm("uniform", TRAIN, POOL)
    assert arm.examples == tuple(TRAIN)
    assert arm.replaced == 0


def test_examples_that_stay_are_the_same_ones_and_the_new_ones_come_from_the_pool() -> None:
    arm = build_arm("flip", TRAIN, POOL, swap_fraction=0.25)
    new = [ex for ex in arm.examples if ex not in TRAIN]
    assert len(new) == arm.replaced == 4 * 5
    assert all(ex.id.startswith("pool") for ex in new)


def test_arm_depends_on_its_seed_and_on_nothing_else() -> None:
    first = build_arm("flip", TRAIN, POOL, swap_fraction=0.5, seed=1)
    assert first == build_arm("flip", TRAIN, POOL, swap_fraction=0.5, seed=1)
    assert first != build_arm("flip", TRAIN, POOL, swap_fraction=0.5, seed=2)


@pytest.mark.parametrize("name", ARMS)
def test_token_matched_arms_have_the_uniform_number_of_tokens_in_each_domain(name: str) -> None:
    arm = build_arm(name, TRAIN, POOL, match="tokens", count_tokens=words)
    for domain in ("math", "code"):
        budget = sum(words(ex) for ex in TRAIN if ex.domain == domain)
        spent = sum(words(ex) for ex in arm.examples if ex.domain == domain)
        assert 0.98 * budget <= spent <= budget


def test_weight_mode_keeps_every_example_and_has_mean_one_in_each_domain() -> None:
    arm = build_arm("flip", TRAIN, mode="weight", ratio=9.0)
    assert arm.examples == tuple(TRAIN)
    by = {(ex.domain, ex.difficulty): weight for ex, weight in zip(arm.examples, arm.weights, strict=True)}
    assert by["math", 5] == pytest.approx(9 * by["math", 1])
    assert by["code", 1] == pytest.approx(9 * by["code", 5])
    assert by["math", 3] == pytest.approx(3 * by["math", 1])
    for domain in ("math", "code"):
        weights = [w for ex, w in zip(arm.examples, arm.weights, strict=True) if ex.domain == domain]
        assert sum(weights) / len(weights) == pytest.approx(1)


@pytest.mark.reliability(kind="bad input", title="an arm that cannot be built")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "flop"}, "arm"),
        ({"mode": "drop"}, "mode"),
        ({"match": "bytes"}, "match"),
        ({"swap_fraction": 1.5}, "swap_fraction"),
        ({"ratio": float("nan")}, "ratio"),
        ({"easy": (1, 2), "hard": (2, 3)}, "easy, hard"),
        ({"easy": (1,), "hard": (4, 5)}, "easy, hard"),
        ({"match": "tokens"}, "count_tokens"),
    ],
)
def test_bad_input_is_named(change: dict, named: str) -> None:
    arguments = {"name": "flip", "train": TRAIN, "pool": POOL, **change}
    with pytest.raises(ParameterError, match=named):
        build_arm(**arguments)


@pytest.mark.reliability(kind="bad input", title="a pool with too few examples")
def test_pool_that_is_too_small_says_how_many_are_needed() -> None:
    with pytest.raises(ParameterError, match="at least 20 for arm flip"):
        build_arm("flip", TRAIN, make("pool", 5))


def test_description_counts_what_is_there() -> None:
    rows = build_arm("flip", TRAIN, POOL).describe(words)
    assert sum(row["examples"] for row in rows) == len(TRAIN)
    assert {row["difficulty"] for row in rows if row["domain"] == "code"} == {1, 2, 3}
