"""Figures draw what they are given: every mean, interval and label, and nothing overlaps the data."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from infra_lib import figures, style


@pytest.fixture(autouse=True)
def clean():
    style.apply()
    yield
    plt.close("all")


@pytest.fixture
def groups() -> pd.DataFrame:
    rows = [
        {
            "target": t,
            "domain": d,
            "difficulty": k,
            "mean": 0.1 * k - 0.2,
            "low": 0.1 * k - 0.4,
            "high": 0.1 * k,
        }
        for t in ("math", "code")
        for d in ("math", "code")
        for k in range(1, 6)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def arms() -> pd.DataFrame:
    rows = [
        {"arm": a, "domain": d, "difficulty": k, "mean": 0.5, "low": 0.4, "high": 0.65, "examples": 10 * k}
        for a in ("flip", "reverse", "uniform")
        for d in ("math", "code")
        for k in range(1, 6)
    ]
    return pd.DataFrame(rows)


def test_points_stand_at_their_means_with_their_intervals(groups) -> None:
    figure = figures.influence_forest(groups)
    for panel, target in zip(figure.axes, ("math", "code"), strict=True):
        for container, domain in zip(panel.containers, ("math", "code"), strict=True):
            part = groups[(groups["target"] == target) & (groups["domain"] == domain)]
            assert np.allclose(container[0].get_ydata(), part["mean"])
            ends = np.array([segment[:, 1] for segment in container[2][0].get_segments()])
            assert np.allclose(ends, part[["low", "high"]])


def test_heat_map_shows_every_cell(groups) -> None:
    figure = figures.influence_heatmap(groups)
    assert [len(axes.texts) for axes in figure.axes] == [10, 10]
    assert "-0.00" not in {text.get_text() for axes in figure.axes for text in axes.texts}


def test_arms_come_in_one_order_with_the_reference_first(arms) -> None:
    one = arms[arms["difficulty"] == 1]
    first, second = figures.arms(one).axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["uniform", "flip", "reverse"]
    assert first.yaxis_inverted(), "the first one stands at the top"
    assert second.get_ylim() == first.get_ylim()
    composition = figures.arm_composition(arms)
    assert [label.get_text() for label in composition.axes[0].get_yticklabels()] == [
        "uniform",
        "flip",
        "reverse",
    ]


def test_bars_of_an_arm_add_up_to_its_examples(arms) -> None:
    for axes in figures.arm_composition(arms).axes:
        widths = sum(bar.get_width() for bar in axes.patches)
        assert widths == arms["examples"].sum() / 2


def test_differences_are_named_by_both_arms() -> None:
    frame = pd.DataFrame(
        [
            {"arm_a": "flip", "arm_b": "uniform", "domain": d, "difference": 0.1, "low": 0.0, "high": 0.2}
            for d in ("math", "code")
        ]
    )
    axes = figures.paired_differences(frame).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["flip − uniform"]


def test_every_legend_names_each_series_once(arms) -> None:
    legend = figures.arms_by_difficulty(arms).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["uniform", "flip", "reverse"]


def test_curves_and_lengths_draw_every_group() -> None:
    curve = pd.DataFrame({"tokens": [1e6, 2e6] * 2, "loss": [3.0, 1.0] * 2, "base_seed": [0, 0, 1, 1]})
    assert len(figures.loss_curves(curve).axes[0].lines) == 2
    lengths = pd.DataFrame(
        [
            {"domain": d, "difficulty": k, "characters": 50 * k + j}
            for d in ("math", "code")
            for k in (1, 2)
            for j in range(5)
        ]
    )
    figure = figures.length_by_difficulty(lengths)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["mathematics", "code"]


def test_rows_without_a_difficulty_are_left_out_and_a_figure_without_rows_says_so(groups, arms) -> None:
    lengths = pd.DataFrame({"domain": ["math"], "difficulty": [1], "characters": [9]})
    for draw, frame in (
        (figures.influence_forest, groups),
        (figures.influence_heatmap, groups),
        (figures.arms_by_difficulty, arms),
        (figures.accuracy_by_difficulty, arms[arms["arm"] == "flip"]),
        (figures.length_by_difficulty, lengths),
    ):
        without = frame.assign(difficulty=pd.array([None] * len(frame), dtype="Int64"))
        assert "has a difficulty" in draw(without).axes[0].texts[0].get_text()
        both = pd.concat([frame.astype({"difficulty": "Int64"}), without], ignore_index=True)
        one, other = draw(both), draw(frame)
        assert [len(axes.get_children()) for axes in one.axes] == [
            len(axes.get_children()) for axes in other.axes
        ]


def test_accuracy_axis_runs_from_zero_to_one(arms) -> None:
    part = arms[arms["arm"] == "flip"]
    assert figures.accuracy_by_difficulty(part).axes[0].get_ylim() == (0, 1)
