"""Random halves, removal sets, and choices of examples depend on seed and ids alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra_lib.errors import ParameterError
from infra_lib.validation.subsets import chance_removal, extremes, half_subsets, spread_choice

IDS = [f"id{i}" for i in range(31)]


@given(st.integers(2, 40), st.integers(1, 9), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_halves_are_halves(size: int, count: int, seed: int) -> None:
    rows = half_subsets([str(i) for i in range(size)], count, seed=seed)
    assert rows.shape == (count, size)
    assert (rows.sum(axis=1) == size // 2).all()


def test_more_subsets_leave_the_first_ones_and_the_order_of_the_file_does_not_matter() -> None:
    few, many = half_subsets(IDS, 3), half_subsets(IDS, 9)
    assert np.array_equal(few, many[:3])
    turned = half_subsets(IDS[::-1], 9)
    assert np.array_equal(turned[:, ::-1], many)
    assert len({row.tobytes() for row in many}) == 9
    assert not np.array_equal(half_subsets(IDS, 3, seed=1), few)


def test_every_example_is_in_about_half_of_the_subsets() -> None:
    share = half_subsets(IDS, 2000).mean(axis=0)
    assert share == pytest.approx(np.full(31, 15 / 31), abs=0.05)


def test_strata_are_halved_each() -> None:
    strata = ["a"] * 10 + ["b"] * 7 + ["c"] * 14
    rows = half_subsets(IDS, 50, strata=strata)
    for name, size in (("a", 10), ("b", 7), ("c", 14)):
        counts = rows[:, [s == name for s in strata]].sum(axis=1)
        assert set(counts) <= {size // 2, (size + 1) // 2}
    plain = half_subsets(IDS, 50)[:, :10].sum(axis=1)
    assert plain.std() > 0.5


def test_extremes_are_the_ends_of_the_ranking() -> None:
    scores = np.array([3.0, -1.0, 2.0, 2.0, 0.0])
    ids = ["e", "d", "c", "b", "a"]
    assert extremes(scores, ids, 2, "top").tolist() == [True, False, False, True, False]
    assert extremes(scores, ids, 2, "bottom").tolist() == [False, True, False, False, True]
    for count, end in ((0, "top"), (5, "top")):
        with pytest.raises(ParameterError, match="removal"):
            extremes(scores, ids, count, end)
    with pytest.raises(ParameterError, match="top, bottom"):
        extremes(scores, ids, 1, "middle")
    with pytest.raises(ParameterError, match="scores"):
        extremes(np.array([1.0, np.nan]), ["a", "b"], 1, "top")


def test_chance_removal_depends_on_seed_and_ids() -> None:
    first = chance_removal(IDS, 7, seed=0)
    assert first.sum() == 7
    assert np.array_equal(chance_removal(IDS[::-1], 7, seed=0)[::-1], first)
    assert not np.array_equal(chance_removal(IDS, 7, seed=1), first)


def test_a_choice_takes_equal_parts_of_each_group() -> None:
    strata = [(i % 2, "x" if i < 8 else "y") for i in range(31)]
    rows = spread_choice(IDS, strata, 16)
    groups = [strata[row] for row in rows]
    assert {group: groups.count(group) for group in set(groups)} == dict.fromkeys(set(strata), 4)
    assert set(spread_choice(IDS, strata, 8)) < set(rows)
    assert len(spread_choice(IDS, strata, 99)) == 31


@pytest.mark.reliability(kind="bad input", title="subsets that cannot be drawn")
def test_bad_input_is_named() -> None:
    with pytest.raises(ParameterError, match="validation_subsets"):
        half_subsets(IDS, 0)
    with pytest.raises(ParameterError, match="all different"):
        half_subsets(["a", "a"], 1)
