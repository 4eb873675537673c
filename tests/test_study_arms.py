"""Arms of a study by name: what each trains on, which are compared, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from infra_lib.attributes import compare_arms
from infra_lib.errors import ParameterError
from infra_lib.figures import arms as draw_arms
from infra_lib.figures import effects, paired_differences
from infra_lib.kinds.sentences import EXPLORATORY, with_kinds
from infra_lib.models import load_tokenizer
from infra_lib.reweight.study_arms import (
    PAIRS,
    STUDY_ARMS,
    UNTUNED,
    check_arms,
    compared,
    composition_of,
    response_tokens,
    study_arm,
)
from infra_lib.sources.small_world import SplitSizes, make_splits
from infra_lib.study import Study
from infra_lib.style import ARM_COLOURS, ARM_MARKERS
from infra_lib.tables import differences_table


@pytest.fixture(scope="module")
def splits():
    return make_splits(SplitSizes(train=200, swap_pool=600, target=10, test=10), seed=0)


def characters(examples) -> dict[str, int]:
    return {example.id: len(example.response) for example in examples}


@pytest.fixture(scope="module")
def built(splits):
    train, pool = list(splits.train), list(splits.swap_pool)
    scores = pd.DataFrame(
        [
            {"base_seed": b, "target": t, "id": ex.id, "score": float((hash_of(ex.id) + b) % 7)}
            for b in (0, 1)
            for t in ("math", "code")
            for ex in train
        ]
    )
    return {
        name: study_arm(name, Study(), train, pool, tokenized=characters, scores=scores)
        for name in STUDY_ARMS
    }


def hash_of(text: str) -> int:
    return sum(map(ord, text))


def total(arm, domain: str) -> int:
    return sum(len(ex.response) for ex in arm.examples if ex.domain == domain)


def test_every_arm_is_built_under_its_name_and_has_its_look(built) -> None:
    assert {name: arm.name for name, arm in built.items()} == {name: name for name in STUDY_ARMS}
    assert set(ARM_COLOURS) == set(ARM_MARKERS) == {UNTUNED, *STUDY_ARMS}
    looks = [(ARM_COLOURS[name], ARM_MARKERS[name]) for name in ARM_COLOURS]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("direction", ["flip", "reverse", "hard_hard", "easy_easy"])
def test_matched_arms_have_the_tokens_of_uniform(built, direction: str) -> None:
    for domain in ("math", "code"):
        goal = total(built["uniform"], domain)
        assert total(built[f"{direction}_tokens"], domain) == pytest.approx(goal, rel=0.02)
        assert total(built[direction], domain) != pytest.approx(goal, rel=0.02)


def test_without_exploration_and_fewer_tokens_have_equal_tokens(built) -> None:
    short, fewer, uniform = (built[name] for name in ("without_exploration", "fewer_tokens", "uniform"))
    assert len(short.examples) == len(uniform.examples) > len(fewer.examples)
    assert 0 < short.replaced < len(uniform.examples)
    assert not any(s.kind in EXPLORATORY for ex in short.examples for s in with_kinds(ex))
    longest = max(len(ex.response) for ex in uniform.examples)
    for domain in ("math", "code"):
        assert total(short, domain) - longest < total(fewer, domain) <= total(short, domain)


def test_influence_weighs_by_the_scores_of_all_models(built) -> None:
    arm = built["influence"]
    assert arm.examples == built["uniform"].examples
    assert len(set(arm.weights)) > 3
    ids = [example.id for example in arm.examples]
    by_score = sorted(range(len(ids)), key=lambda k: hash_of(ids[k]) % 7 + (hash_of(ids[k]) + 1) % 7)
    assert arm.weights[by_score[0]] < arm.weights[by_score[-1]]


def test_influence_needs_scores(splits) -> None:
    with pytest.raises(ParameterError, match="notebook 04"):
        study_arm("influence", Study(), splits.train, [], tokenized=characters)


def test_an_unknown_arm_is_named(splits) -> None:
    with pytest.raises(ParameterError, match="one of uniform, flip"):
        study_arm("skew", Study(), splits.train, [], tokenized=characters)


def test_a_small_pool_is_found_before_any_training(splits) -> None:
    with pytest.raises(ParameterError, match="swap_pool_examples"):
        check_arms(Study(arms=["uniform", "flip_tokens"]), splits.train, splits.swap_pool[:20])
    check_arms(Study(arms=["uniform", "influence", "fewer_tokens"]), splits.train, [])


@pytest.mark.reliability(kind="bad input", title="an arm that would replace nothing")
def test_an_arm_that_would_replace_nothing_is_refused_before_any_training(splits) -> None:
    unlabelled = [replace(example, difficulty=None) for example in splits.train]
    with pytest.raises(ParameterError, match=r"arms is 'flip'.*difficulty_from: length: 0 of 200 training"):
        check_arms(Study(arms=["uniform", "flip"]), unlabelled, splits.swap_pool)
    check_arms(Study(arms=["uniform", "without_exploration"]), unlabelled, splits.swap_pool)
    check_arms(Study(arms=["flip"], swap_fraction=0.0), splits.train, splits.swap_pool)
    with pytest.raises(ParameterError, match=r"swap_fraction is 0\.001.*larger: of no level"):
        check_arms(Study(arms=["flip"], swap_fraction=0.001), splits.train, splits.swap_pool)


def test_each_arm_is_compared_with_uniform_and_some_with_each_other() -> None:
    pairs = compared(STUDY_ARMS)
    assert len(pairs) == len(set(pairs)) == len(STUDY_ARMS) - 1 + len(PAIRS)
    assert ("flip", "uniform") in pairs
    assert ("uniform", "without_exploration") in pairs
    assert ("reverse", "flip") in pairs
    assert compared(["flip", "reverse"]) == [("reverse", "flip")]
    assert compared(["uniform"]) == []


def test_composition_counts_examples_and_tokens(built) -> None:
    frame = composition_of(built["fewer_tokens"], characters)
    assert frame["examples"].sum() == len(built["fewer_tokens"].examples)
    assert frame["tokens"].sum() == sum(total(built["fewer_tokens"], d) for d in ("math", "code"))


def test_figures_hold_every_arm_or_say_that_there_is_none() -> None:
    rows = [
        {"arm": name, "domain": domain, "mean": 0.5, "low": 0.4, "high": 0.7}
        for name in STUDY_ARMS
        for domain in ("math", "code")
    ]
    figure = draw_arms(pd.DataFrame(rows))
    assert len(figure.axes[0].get_yticklabels()) == len(STUDY_ARMS)
    columns = ["label", "domain", "mean", "low", "high"]
    assert "not measured" in effects(pd.DataFrame(columns=columns), unit="x").axes[0].texts[0].get_text()


def test_one_arm_alone_has_nothing_to_compare() -> None:
    answers = pd.DataFrame(
        {
            "arm": "uniform",
            "base_seed": 0,
            "seed": 0,
            "domain": "math",
            "id": ["a", "b"],
            "correct": [True, False],
        }
    )
    alone = compare_arms(answers, compared(["uniform"]))
    assert alone.empty
    assert "nothing to compare" in differences_table(alone)
    assert "not measured" in paired_differences(alone).axes[0].texts[0].get_text()


def test_what_is_cut_off_in_training_does_not_count(root, splits) -> None:
    tokenizer = load_tokenizer(root / "records" / "base" / "seed0")
    examples = list(splits.train[::9])
    whole = response_tokens(tokenizer, examples)
    assert response_tokens(tokenizer, examples, max_tokens=10_000) == whole
    prompt = {ex.id: len(tokenizer(ex.prompt).input_ids) for ex in examples}
    short = response_tokens(tokenizer, examples, max_tokens=120)
    assert short == {name: min(count, 120 - prompt[name]) for name, count in whole.items()}
    assert short != whole
