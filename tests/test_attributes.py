"""Scores become group means with intervals, contrasts and ranks that can be recomputed by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from infra_lib.attributes import (
    compare_arms,
    compare_arms_by_base,
    contrast,
    correct_responses,
    extreme_examples,
    group_influence,
    hard_minus_easy,
    rank_agreement,
    score_table,
    standardised,
    target_counts,
)
from infra_lib.errors import NumericalError, ParameterError
from infra_lib.examples import Example
from infra_lib.tables import base_differences_table, group_influence_table

RNG = np.random.default_rng(0)
EXAMPLES = pd.DataFrame(
    {
        "id": [f"e{i}" for i in range(80)],
        "domain": ["math"] * 40 + ["code"] * 40,
        "difficulty": [1, 2, 4, 5] * 20,
        "category": ["symbolic", "symbolic", "conversational", "conversational"] * 10 + ["map"] * 40,
        "prompt": "p",
        "response": "r",
    }
)


@pytest.fixture
def scores() -> pd.DataFrame:
    """Hard mathematics helps both targets by one unit; everything else is noise."""
    hard = ((EXAMPLES["domain"] == "math") & (EXAMPLES["difficulty"] >= 4)).to_numpy(float)
    parts = [
        pd.DataFrame(
            {
                "id": EXAMPLES["id"],
                "base_seed": b,
                "target": t,
                "score": (1 + 3 * b) * (hard + RNG.normal(0, 0.3, 80)),
            }
        )
        for b in (0, 1)
        for t in ("math", "code")
    ]
    return pd.concat(parts, ignore_index=True)


def test_ranks_start_at_the_most_helpful_and_ties_follow_the_id() -> None:
    examples = [Example(i, "math", "p", "r") for i in ("b", "a", "c")]
    table = score_table({"t": np.array([1.0, 1.0, 2.0])}, examples, [3, 4, 5]).set_index("id")
    assert table["rank"].to_dict() == {"c": 1, "a": 2, "b": 3}
    assert table["n_tokens"].to_dict() == {"b": 3, "a": 4, "c": 5}


def test_standardising_makes_models_comparable_and_keeps_the_sign(scores) -> None:
    z = standardised(scores)
    assert np.allclose(z.groupby(["base_seed", "target"])["z"].std(), 1)
    assert (np.sign(z["z"]) == np.sign(z["score"])).all()
    with pytest.raises(NumericalError, match="equal"):
        standardised(scores.assign(score=1.0))


def test_group_means_are_plain_means_with_intervals_around_them(scores) -> None:
    groups = group_influence(scores, EXAMPLES, ["domain", "difficulty"], samples=300)
    z = standardised(scores).merge(EXAMPLES, on="id")
    expected = z.groupby(["target", "domain", "difficulty"])["z"].mean()
    found = groups.set_index(["target", "domain", "difficulty"])
    assert np.allclose(found["mean"], expected.reindex(found.index))
    assert ((groups["low"] <= groups["mean"]) & (groups["mean"] <= groups["high"])).all()
    assert set(groups["n"]) == {10}
    assert set(groups["runs"]) == {2}


def test_a_planted_difference_is_found_and_nothing_else(scores) -> None:
    found = hard_minus_easy(scores, EXAMPLES, easy=[1, 2], hard=[4, 5], samples=500).set_index(
        ["domain", "target"]
    )
    for target in ("math", "code"):
        assert found.loc[("math", target), "low"] > 0.5
        assert found.loc[("code", target), "low"] < 0 < found.loc[("code", target), "high"]
    assert set(found["n_hard"]) == set(found["n_easy"]) == {20}


def test_contrast_takes_only_domains_that_have_both_groups(scores) -> None:
    found = contrast(scores, EXAMPLES, "category", ("symbolic", "conversational"), samples=200)
    assert set(found["domain"]) == {"math"}
    assert (found["difference"] < 0).all()


def test_extremes_are_the_ends_of_the_ranking(scores) -> None:
    found = extreme_examples(scores, EXAMPLES, count=2)
    mean = standardised(scores).groupby(["target", "id"])["z"].mean()
    for target, part in found.groupby("target"):
        ordered = mean[target].sort_values()
        assert set(part[part["side"] == "helps"]["id"]) == set(ordered.index[-2:])
        assert set(part[part["side"] == "hinders"]["id"]) == set(ordered.index[:2])


def test_agreement_is_the_rank_correlation(scores) -> None:
    from scipy.stats import spearmanr

    row = rank_agreement(scores).set_index("target").loc["math"]
    wide = scores[scores["target"] == "math"].pivot(index="id", columns="base_seed", values="score")
    assert row["spearman"] == pytest.approx(spearmanr(wide[0], wide[1]).statistic)


def test_targets_hold_the_models_own_correct_responses() -> None:
    problems = [Example(f"p{i}", d, "q", "reference", i + 1) for i, d in enumerate(("math", "code"))]
    answers = pd.DataFrame(
        {"base_seed": 0, "id": ["p0", "p1"], "response": ["mine", "mine too"], "correct": [True, True]}
    )
    solved = correct_responses(problems, answers)
    assert solved[0]["math"][0].response == "mine"
    assert target_counts(solved)["n"].sum() == 2
    with pytest.raises(ParameterError, match="no code problem solved by base 0"):
        correct_responses(problems, answers.assign(correct=[True, False]))


def test_arms_are_compared_on_shared_runs_and_problems_only() -> None:
    rows = [
        {
            "arm": arm,
            "base_seed": 0,
            "seed": seed,
            "domain": "math",
            "id": f"p{i}",
            "correct": (i + seed) % 3 > (arm == "uniform"),
        }
        for arm in ("uniform", "flip")
        for seed in (0, 1)
        for i in range(30)
    ]
    found = compare_arms(pd.DataFrame(rows), [("flip", "uniform"), ("flip", "absent")], samples=200)
    assert len(found) == 1
    frame = pd.DataFrame(rows)
    means = frame.groupby("arm")["correct"].mean()
    assert found.iloc[0]["difference"] == pytest.approx(means["flip"] - means["uniform"])
    assert (found.iloc[0]["runs"], found.iloc[0]["n"]) == (2, 30)


def test_bases_that_disagree_are_shown_apart() -> None:
    rows = [
        {"arm": arm, "base_seed": base, "seed": seed, "domain": "math", "id": f"p{i}"}
        | {"correct": (i + seed) % 4 > (1 if (arm == "flip") == (base == 0) else 2)}
        for arm in ("uniform", "flip")
        for base in (0, 1)
        for seed in (0, 1, 2)
        for i in range(40)
    ]
    found = compare_arms_by_base(pd.DataFrame(rows), [("flip", "uniform"), ("flip", "absent")], samples=200)
    assert found["base_seed"].tolist() == [0, 1]
    assert found["difference"].tolist() == pytest.approx([0.25, -0.25])
    assert found.loc[0, "low"] > 0 > found.loc[1, "high"]
    assert found[["runs", "n"]].to_numpy().tolist() == [[3, 40]] * 2
    together = compare_arms(pd.DataFrame(rows), [("flip", "uniform")], samples=200)
    assert together.loc[0, "difference"] == pytest.approx(0)
    shown = base_differences_table(found)
    assert "In 1 of 1 differences one base lies clearly above zero and another clearly below." in shown
    assert "nothing to compare" in base_differences_table(found.iloc[:0])


def test_examples_without_a_difficulty_are_a_group_of_their_own() -> None:
    examples = pd.DataFrame(
        {
            "id": list("abcdef"),
            "domain": ["math"] * 6,
            "difficulty": pd.array([1, 1, 2, None, None, None], "Int64"),
        }
    )
    scores = pd.DataFrame(
        [
            {"base_seed": seed, "id": key, "target": "math", "score": value + 0.1 * seed * (key == "a")}
            for seed in (0, 1)
            for value, key in enumerate("abcdef")
        ]
    )
    found = group_influence(scores, examples, ["domain", "difficulty"], samples=100)
    assert found["difficulty"].dtype == "Int64"
    assert found["n"].tolist() == [2, 1, 3]
    assert pd.isna(found["difficulty"].iloc[2])
    assert "none" in group_influence_table(found)
    by_category = found.drop(columns="difficulty").assign(category=["<b>", "map", None])
    shown = group_influence_table(by_category, "category")
    assert "map" in shown
    assert "none" in shown
    assert "<b>" not in shown
