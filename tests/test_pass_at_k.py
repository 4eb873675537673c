"""pass@k is the share of k-subsets with a correct answer, and its table speaks of problems."""

from __future__ import annotations

import html
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest

from infra_lib import tables
from infra_lib.errors import ParameterError
from infra_lib.pass_at_k import pass_at_k, pass_at_k_table, tries
from infra_lib.statistics import accuracy_by_group


def test_it_is_the_share_of_subsets_that_hold_a_correct_answer() -> None:
    for n in range(1, 9):
        for c in range(n + 1):
            answers = [True] * c + [False] * (n - c)
            for k in range(1, n + 1):
                subsets = list(combinations(answers, k))
                share = sum(any(subset) for subset in subsets) / len(subsets)
                assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


def test_it_is_stable_where_binomials_overflow_floats() -> None:
    n, c, k = 20_000, 300, 5_000
    exact = 1 - comb(n - c, k) / comb(n, k)
    assert pass_at_k(n, c, k) == pytest.approx(exact, rel=1e-9)
    assert pass_at_k(n, 1, 1) == pytest.approx(1 / n)


def test_it_is_unbiased_where_the_plug_in_estimate_is_not() -> None:
    rng = np.random.default_rng(0)
    p, n, k = 0.2, 6, 3
    counts = rng.binomial(n, p, size=40_000)
    truth = 1 - (1 - p) ** k
    assert np.mean([pass_at_k(n, int(c), k) for c in counts]) == pytest.approx(truth, abs=0.006)
    assert abs(np.mean(1 - (1 - counts / n) ** k) - truth) > 0.02


@pytest.mark.reliability(kind="bad input", title="pass@k of numbers that cannot be")
@pytest.mark.parametrize(
    ("n", "c", "k", "name"), [(4, 5, 1, "c"), (4, -1, 1, "c"), (4, 2, 5, "k"), (4, 2, 0, "k")]
)
def test_numbers_that_cannot_be_are_named(n, c, k, name) -> None:
    with pytest.raises(ParameterError, match=f"parameter {name} is"):
        pass_at_k(n, c, k)


@pytest.fixture
def answers() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = [
        {
            "domain": domain,
            "id": f"{domain}{i}",
            "sample": s,
            "correct": bool(rng.random() < 0.1 + 0.8 * i / 20),
        }
        for domain in ("math", "code")
        for i in range(20)
        for s in range(4)
    ]
    return pd.DataFrame(rows)


def test_pass_at_one_is_the_accuracy_and_more_tries_help(answers) -> None:
    table = pass_at_k_table(answers, (1, 2, 4), by=["domain"])
    first = table[table["k"] == 1].set_index("domain")["mean"]
    assert first.to_dict() == pytest.approx(answers.groupby("domain")["correct"].mean().to_dict())
    for _, part in table.groupby("domain"):
        assert part["mean"].is_monotonic_increasing
        assert ((part["low"] <= part["mean"]) & (part["mean"] <= part["high"])).all()
    assert set(table["n"]) == {20}


def test_more_answers_to_the_same_problems_are_no_more_problems(answers) -> None:
    """Doubling every answer leaves pass@1 and its interval as they were."""
    plain = pass_at_k_table(answers)
    doubled = pass_at_k_table(pd.concat([answers, answers]))
    assert plain[["mean", "low", "high", "n"]].equals(doubled[["mean", "low", "high", "n"]])


@pytest.mark.reliability(kind="bad input", title="pass@k beyond the answers that there are")
def test_too_large_a_k_names_the_problem_with_too_few_answers(answers) -> None:
    fewer = answers.drop(answers.index[(answers["id"] == "code7") & (answers["sample"] == 0)])
    with pytest.raises(ParameterError, match=r"parameter k is 4.*at most 3.*'code7'"):
        pass_at_k_table(fewer, (4,))
    with pytest.raises(ParameterError, match="graded"):
        pass_at_k_table(answers.iloc[:0])
    with pytest.raises(ParameterError, match="column correct"):
        pass_at_k_table(answers.drop(columns="correct"))


def test_every_run_has_tries_of_its_own(answers) -> None:
    """Two runs that each solve the other half: pass@2 over both would be 1, and no run reaches it."""
    rows = [
        {"base_seed": 0, "seed": run, "id": f"p{i}", "correct": (i % 2 == 0) == (run == 0)}
        for run in (0, 1)
        for i in range(10)
        for _ in range(2)
    ]
    table = pass_at_k_table(pd.DataFrame(rows), (1, 2))
    assert table["mean"].tolist() == [0.5, 0.5]
    assert set(table["runs"]) == {2}
    assert set(table["n"]) == {10}
    by_run = accuracy_by_group(pd.DataFrame(rows).assign(all="all"), ["all"])
    assert table.loc[0, ["mean", "low", "high"]].tolist() == by_run.loc[0, ["mean", "low", "high"]].tolist()
    with pytest.raises(ParameterError, match="no answer to p0 in some run"):
        pass_at_k_table(pd.DataFrame(rows[2:]), (1,))


def test_powers_of_two_and_all_answers_are_shown() -> None:
    assert [tries(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_exams_are_shown_apart_where_there_are_several(answers) -> None:
    one = pass_at_k_table(answers.assign(exam="small_world"), by=["exam", "domain"])
    assert "one exam" in tables.exams(one)
    exams = answers.assign(exam=["aime24", "math500"] * (len(answers) // 2), arm="flip")
    shown = tables.exams(pass_at_k_table(exams, by=["arm", "exam", "domain"]))
    assert shown.count("<tr>") == 5
    assert "one exam" not in shown
    several = tables.exams(pass_at_k_table(answers.assign(exam="e"), (1, 4), by=["exam", "domain"]))
    assert "pass@4" in html.unescape(several)


def test_the_shown_table_has_a_column_per_k(answers) -> None:
    shown = tables.pass_at_k(pass_at_k_table(answers, (1, 4), by=["domain"]), by=["domain"])
    assert "pass" in shown
    assert shown.count("<tr>") == 3
    assert shown.count("<td") == 2 * 5
