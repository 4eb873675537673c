"""Groups removed and doubled: what is trained, what is forecast, and how agreement is counted."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from infra_lib import style
from infra_lib.examples import Example
from infra_lib.experiment import Run
from infra_lib.finetune import FinetuneConfig
from infra_lib.markup import active_markup
from infra_lib.validation import figures, groups, tables
from infra_lib.validation.bench import Bench
from infra_lib.validation.scores import ModelScores

KEY = ("ekfac", 0.1)


def example(name: str, domain: str, level: int) -> Example:
    return Example(name, domain, "p", "r", difficulty=level)


def asked(**given: object) -> SimpleNamespace:
    return SimpleNamespace(**{"group_seeds": 2, "group_levels": [], "group_categories": []} | given)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    train = tuple(
        example(f"{d}{level}{k}", d, level) for d in ("code", "math") for level in (1, 2) for k in "ab"
    )
    runs = tuple(
        Run("validation", 0, seed, tmp_path, train, (), FinetuneConfig(), tmp_path) for seed in (0, 1)
    )
    return Bench(asked(group_levels=[1, 2]), train, (), runs, tmp_path)


def test_each_group_is_removed_and_doubled_with_the_seeds_of_the_whole(bench) -> None:
    found = groups.group_runs(bench)
    assert [(g.domain, g.difficulty, g.change) for g in found] == [
        (d, level, change) for d in ("math", "code") for level in (1, 2) for change in groups.CHANGES
    ]
    for group in found:
        members = [(ex.domain, ex.difficulty) == (group.domain, group.difficulty) for ex in bench.train]
        assert [run.seed for run in group.runs] == [0, 1]
        for run in group.runs:
            if group.change == "removed":
                assert len(run.train) == 6
                assert run.weights is None
                assert not any(
                    (ex.domain, ex.difficulty) == (group.domain, group.difficulty) for ex in run.train
                )
                assert group.weights[~np.array(members)] == pytest.approx(1)
            else:
                assert tuple(run.train) == bench.train
                assert run.weights == pytest.approx(np.where(members, 2, 1) / 1.25)
                assert run.weights == pytest.approx(group.weights)
    assert len({run.arm for group in found for run in group.runs}) == len(found)


def test_fewer_seeds_are_the_first_ones_and_fewer_levels_those_that_are_named(bench) -> None:
    one = replace(bench, params=asked(group_seeds=1, group_levels=[2]))
    assert {run.seed for group in groups.group_runs(one) for run in group.runs} == {0}
    assert {group.difficulty for group in groups.group_runs(one)} == {2}


def test_categories_are_groups_of_their_domain_beside_the_levels(bench) -> None:
    kinds = {"a": "even", "b": "2"}
    train = tuple(
        replace(ex, category=kinds[ex.id[-1]] if ex.domain == "math" else "2") for ex in bench.train
    )
    named = replace(
        bench, params=asked(group_levels=[2], group_categories=["2", "none", "even"]), train=train
    )
    found = [group for group in groups.group_runs(named) if group.change == "removed"]
    assert [(group.domain, group.difficulty, group.category) for group in found] == [
        ("math", 2, None),
        ("math", None, "2"),
        ("math", None, "even"),
        ("code", 2, None),
        ("code", None, "2"),
    ]
    assert len({group.runs[0].arm for group in found}) == len(found), "a category may be called like a level"
    for group in found[1:3]:
        expected = [ex.domain == "math" and ex.category == group.category for ex in train]
        assert group.members.tolist() == expected
        assert list(group.runs[0].train) == [ex for ex, own in zip(train, expected, strict=True) if not own]
    table = pd.DataFrame(
        [{"domain": g.domain, "difficulty": g.difficulty, "category": g.category} for g in found]
    )
    labels = [figures.group_name(row) for row in table.itertuples()]
    assert labels == ["mathematics 2", "mathematics, 2", "mathematics, even", "code 2", "code, 2"]


def test_a_category_with_the_examples_of_a_level_is_that_group(bench) -> None:
    train = tuple(replace(ex, category=f"level {ex.difficulty}") for ex in bench.train)
    named = replace(
        bench, params=asked(group_levels=[1], group_categories=["level 1", "level 2"]), train=train
    )
    found = [(group.difficulty, group.category) for group in groups.group_runs(named)]
    assert found == [(1, None), (1, None), (None, "level 2"), (None, "level 2")] * 2


def test_agreement_keeps_both_changes_of_a_category_together() -> None:
    table = outcomes(lambda k: 1.0, lambda k: 1.0 if k < 6 else -1.0)
    named = table.assign(category=[f"kind {k}" for k in table["difficulty"]], difficulty=np.nan)
    for column in ("agree", "low", "high"):
        one, other = groups.sign_agreement(table)[column], groups.sign_agreement(named)[column]
        assert one.tolist() == pytest.approx(other.tolist())


def test_a_group_that_is_everything_is_left_out(bench) -> None:
    alone = replace(bench, train=bench.train[:2])
    assert groups.group_runs(alone) == []


def made_up(bench: Bench, effect: float) -> SimpleNamespace:
    """Return targets of six responses; every model without a group loses what the group's scores say."""
    responses = 6
    before = np.zeros((2, responses))

    def of_models(tokens, runs):
        if tuple(runs) == bench.runs:
            return before
        group = next(g for g in groups.group_runs(bench) if g.runs[0].arm == runs[0].arm)
        noise = np.random.default_rng(0).normal(0, 1e-3, before.shape)
        return before + effect * float((group.weights - 1) @ scores()) + noise

    return SimpleNamespace(
        bench=bench,
        domains=["math", "code"],
        own=np.zeros(responses, bool),
        of_models=of_models,
        weights=lambda domain: np.full(responses, 1 / responses),
    )


def scores() -> np.ndarray:
    return np.array([-3.0, -2.0, 1.0, 1.0, 4.0, 5.0, 0.5, 0.7])


def answers(bench: Bench) -> pd.DataFrame:
    arms = ["validation", *(run.arm for group in groups.group_runs(bench) for run in group.runs[:1])]
    rows = [
        {
            "arm": arm,
            "seed": seed,
            "id": f"{domain}{k}",
            "domain": domain,
            "correct": k < 2 - (arm != "validation"),
        }
        for arm in arms
        for seed in (0, 1)
        for domain in ("math", "code")
        for k in range(4)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("effect", [1.0, -1.0])
def test_the_outcome_stands_beside_the_forecast(bench, effect: float) -> None:
    table = np.repeat(scores()[:, None], 6, axis=1)
    models = [ModelScores({KEY: table}, {}, {})]
    found = groups.group_table(
        made_up(bench, effect),
        groups.group_runs(bench),
        answers(bench),
        models,
        key=KEY,
        tokens="whole",
        samples=200,
    )
    assert len(found) == 4 * 2 * 2
    np.testing.assert_allclose(found["nats"], effect * found["predicted"], atol=0.01)
    removed = found.query("domain == 'code' and difficulty == 1 and change == 'removed'")
    assert removed["predicted"].tolist() == pytest.approx([5.0, 5.0])
    assert found["accuracy"].tolist() == pytest.approx([-0.25] * len(found))
    agreement = groups.sign_agreement(found, samples=200).set_index(["target", "change"])
    expected = 1.0 if effect > 0 else 0.0
    assert agreement["agree"].tolist() == pytest.approx([expected] * 6)
    assert agreement.loc[("math", "both"), ["n", "n_clear"]].tolist() == [8, 8]
    assert agreement["spearman"].tolist() == pytest.approx([effect] * 6)
    shown = tables.groups_table(found) + tables.agreement_sentence(agreement.reset_index())
    assert f"{expected:.0%}" in shown
    assert "mathematics 2, removed" in shown
    assert not active_markup(shown)
    for draw in (figures.groups, figures.forecasts):
        assert len(draw(found).axes) == 2


def outcomes(predicted, nats) -> pd.DataFrame:
    """Return eight groups, removed and doubled, whose doubling does and is forecast to do what is given."""
    rows = [
        {"target": "math", "domain": "math", "difficulty": k, "change": change}
        | {"predicted": sign * predicted(k), "nats": sign * nats(k), "low": -2.0, "high": 2.0, "seeds": 2}
        for k in range(8)
        for change, sign in (("removed", -1), ("doubled", 1))
    ]
    return pd.DataFrame(rows)


def test_agreement_is_counted_and_its_interval_draws_groups() -> None:
    table = outcomes(lambda k: 1.0, lambda k: 1.0 if k < 6 else -1.0)
    found = groups.sign_agreement(table, samples=2000).set_index("change")
    assert found["agree"].tolist() == [0.75] * 3
    assert found["constant"].tolist() == [0.75] * 3, "a forecast that is the same for all knows no more"
    assert found.loc["both", "n"] == 16
    # Both changes of a group come and go together: sixteen rows are no better than eight.
    assert found.loc["both", "low"] == pytest.approx(found.loc["removed", "low"])
    assert found.loc["both", "low"] < 0.55
    assert found["clear"].isna().all()
    assert found["spearman"].isna().loc["removed"]
    sentence = tables.agreement_sentence(found.reset_index())
    assert "no interval excludes zero" in sentence
    assert "does as well, 75%" in sentence
    for agree, words in ((0.5, "does better, 75%"), (0.9, "does worse, 75%")):
        assert words in tables.agreement_sentence(found.assign(agree=agree).reset_index())
    assert "not defined for groups removed" in sentence


def test_ranks_in_reverse_are_no_agreement_even_where_all_signs_are_right() -> None:
    found = groups.sign_agreement(outcomes(lambda k: 1.0 + k, lambda k: 9.0 - k), samples=100)
    assert found["spearman"].tolist() == pytest.approx([-1.0] * 3)
    assert found["agree"].tolist() == found["constant"].tolist() == [1.0] * 3


def test_a_constant_forecast_is_judged_by_change() -> None:
    found = groups.sign_agreement(outcomes(lambda k: (-1.0) ** k, lambda k: (-1.0) ** k), samples=100)
    assert found["agree"].tolist() == [1.0] * 3
    assert found["constant"].tolist() == [0.5] * 3


@pytest.mark.parametrize("scale", [0.003, 7.0, 20_500.0, 4e6])
def test_labels_of_forecasts_stand_apart(scale: float) -> None:
    style.apply()
    table = outcomes(lambda k: scale * (k + 1) / 8, lambda k: 1.0)
    figure = figures.forecasts(pd.concat([table, table.assign(target="code")]))
    figure.canvas.draw()
    for panel in figure.axes:
        low, high = panel.get_xlim()
        labels = [label for label in panel.get_xticklabels() if low <= label.get_position()[0] <= high]
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) >= 3
        for one, following in itertools.pairwise(boxes):
            assert one.x1 + 2 < following.x0, [label.get_text() for label in labels]
    plt.close(figure)
