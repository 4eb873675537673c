"""Verdicts follow their rule, and the paper's facts are whole."""

from __future__ import annotations

import pandas as pd
import pytest

from infra_lib.claims import IMPLIED, measure_claims, measure_implied, verdict
from infra_lib.paper import MARKS, facts_table, load_paper, numbers_table, reference_table
from infra_lib.reweight.study_arms import STUDY_ARMS, compared


@pytest.mark.parametrize(
    ("low", "high", "direction", "expected"),
    [
        (0.1, 0.2, "up", "reproduced"),
        (0.1, 0.2, "down", "not reproduced"),
        (-0.2, -0.1, "up", "not reproduced"),
        (-0.2, -0.1, "down", "reproduced"),
        (-0.1, 0.1, "up", "undecided"),
        (0.0, 0.1, "up", "undecided"),
    ],
)
def test_verdict_follows_the_rule(low, high, direction, expected) -> None:
    assert verdict(low, high, direction) == expected


def test_effects_without_an_experiment_are_not_measured() -> None:
    claims = measure_claims({})
    assert set(claims["verdict"]) == {"not measured"}
    assert len(claims) == sum(len(claim["tests"]) for claim in load_paper()["claims"])


def test_a_measurement_lands_in_its_own_row() -> None:
    arms = pd.DataFrame(
        [
            {
                "arm_a": "flip",
                "arm_b": "uniform",
                "domain": "math",
                "difference": 0.1,
                "low": 0.05,
                "high": 0.2,
                "runs": 6,
                "n": 250,
            },
            {
                "arm_a": "reverse",
                "arm_b": "uniform",
                "domain": "code",
                "difference": 0.1,
                "low": 0.05,
                "high": 0.2,
                "runs": 6,
                "n": 250,
            },
        ]
    )
    claims = measure_claims({"arms": arms}).set_index("test")
    assert claims.loc["2a", "verdict"] == "reproduced"
    assert claims.loc["2c", "verdict"] == "not reproduced"
    assert claims.loc["2b", "verdict"] == "not measured"
    assert (claims.loc["2a", ["runs", "n"]] == [6, 250]).all()


def effect_of_arms(first: str, second: str, domain: str, low: float) -> dict[str, object]:
    found = {"difference": low + 0.1, "low": low, "high": low + 0.2, "runs": 10, "n": 250}
    return {"arm_a": first, "arm_b": second, "domain": domain, **found}


def test_implied_effects_are_judged_where_a_study_has_the_arms() -> None:
    arms = [
        effect_of_arms("flip", "uniform", "math", 0.1),
        effect_of_arms("flip_tokens", "uniform", "math", 0.1),
        effect_of_arms("easy_easy", "uniform", "math", -0.3),
        effect_of_arms("easy_easy", "uniform", "code", -0.3),
        effect_of_arms("hard_hard", "uniform", "code", -0.3),
    ]
    found = measure_implied(pd.DataFrame(arms))
    verdicts = {"2e": "reproduced", "2j": "reproduced", "2k": "reproduced", "2l": "not reproduced"}
    assert found.set_index("test")["verdict"].to_dict() == verdicts
    assert set(found["reported"]) == {IMPLIED}
    assert set(found["mark"]) == {"I"}
    assert list(found.columns) == list(measure_claims({}).columns)
    assert measure_implied(pd.DataFrame(arms[:1])).empty


def test_every_implied_effect_is_of_arms_that_a_study_compares() -> None:
    pairs = compared(STUDY_ARMS)
    implied = [test for claim in load_paper()["claims"] for test in claim.get("implied", [])]
    assert implied
    for test in implied:
        assert (test["arm_a"], test["arm_b"]) in pairs, test["id"]
    reported = [test["id"] for claim in load_paper()["claims"] for test in claim["tests"]]
    assert len({*reported, *(test["id"] for test in implied)}) == len(reported) + len(implied)


def test_every_fact_and_number_of_the_paper_has_a_mark() -> None:
    paper = load_paper()
    assert set(paper["marks"]) == set(MARKS)
    for entry in paper["facts"] + paper["numbers"]:
        assert entry["mark"] in MARKS
    assert len(paper["claims"]) == 5


def test_all_facts_and_numbers_reach_the_page() -> None:
    assert facts_table().count("<tr ") == len(load_paper()["facts"]) + 1
    assert numbers_table().count("<tr ") == len(load_paper()["numbers"]) + 1
    assert reference_table().count("<tr ") == len(load_paper()["reference"]["numbers"]) + 1


def test_sentences_and_tokens_find_their_rows() -> None:
    effect = {"difference": 0.3, "low": 0.1, "high": 0.5, "runs": 2, "n": 700}
    sentences = pd.DataFrame(
        [
            {"target": t, "domain": d, "kind": "exploratory", **effect}
            for t in ("math", "code")
            for d in ("math", "code")
        ]
    )
    sentences.loc[(sentences["target"] == "code") & (sentences["domain"] == "code"), ["low", "high"]] = (
        -0.5,
        -0.1,
    )
    tokens = pd.DataFrame(
        [
            {"target": t, "domain": t, "class": c, "reading": reading, **effect, "low": low}
            for t in ("math", "code")
            for c in ("logic connector", "structural syntax")
            for reading, low in (("loss", 0.1), ("position", -0.1))
        ]
    )
    found = measure_claims({"sentences": sentences, "tokens": tokens}).set_index("test")["verdict"]
    assert found[["3c", "3d"]].tolist() == ["reproduced", "not reproduced"]
    assert found[["4a", "4b", "4c", "4d"]].tolist() == ["reproduced"] * 2 + ["undecided"] * 2
    assert set(found.drop(["3c", "3d", "4a", "4b", "4c", "4d"])) == {"not measured"}
