"""The tables of a validation, end to end on a ridge regression whose retraining is a formula."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from test_validation_lds import Ridge

from infra_lib import style
from infra_lib.examples import Example
from infra_lib.validation import figures, report
from infra_lib.validation.bench import Targets
from infra_lib.validation.scores import ModelScores
from infra_lib.validation.subsets import half_subsets
from infra_lib.validation.targets import TOKENS

PARAMS = SimpleNamespace(
    validation_seeds=2,
    ceiling_seeds=2,
    removal_fractions=[0.1, 0.3],
    removal_seeds=2,
    removal_draws=3,
    seed=0,
)
WITHOUT_NOISE = 0.0


class World:
    """A bench whose retrainings are ridge regressions; each response is one token."""

    def __init__(self, noise: float) -> None:
        self.ridge, self.noise = Ridge(targets=12), noise
        self.rng = np.random.default_rng(9)
        domains = ["math", "code"] * 6
        responses = [
            Example(id=f"t{i}", domain=d, prompt="?", response="!", difficulty=1 + i % 3)
            for i, d in enumerate(domains)
        ]
        train = [Example(id=f"e{i}", domain="math", prompt="?", response="!") for i in range(60)]
        ids = [example.id for example in train]
        bench = SimpleNamespace(params=PARAMS, membership=half_subsets(ids, 60), train=train)
        masks = {tokens: [np.array([True])] * 12 for tokens in TOKENS}
        ridge = self.ridge

        class Fixed(Targets):
            def of_models(self, tokens: str) -> np.ndarray:
                return ridge.measure(np.ones((1, 60), dtype=bool))

        self.targets = Fixed(bench, tuple(responses), np.zeros(12, dtype=bool), masks)
        self.seeds = [[0, 1]] * 60
        self.measured = report.Measured(self.targets, self.seeds, self.train(bench.membership, 2))

    def train(self, membership: np.ndarray, seeds: int) -> list[list[np.ndarray]]:
        values = np.repeat(self.ridge.measure(membership), seeds, axis=0)
        noisy = values + self.noise * self.rng.standard_normal(values.shape)
        return [[np.array([value]) for value in row] for row in noisy]

    def scores(self, spoiled: float, seed: int) -> ModelScores:
        """Exact influence under one damping, and with another mostly noise."""
        exact = self.ridge.influence()
        noise = exact.std() * np.random.default_rng(seed).standard_normal(exact.shape)
        tables = {
            ("ekfac", 0.1): exact + spoiled * noise,
            ("ekfac", 10.0): exact + 20 * noise,
            ("gradcos", None): noise,
        }
        refined = {d: {("refined", 0.1): exact @ self.targets.weights(d)[:, None]} for d in ("math", "code")}
        return ModelScores(tables, refined, {})


@pytest.fixture(scope="module")
def world():
    return World(WITHOUT_NOISE)


@pytest.fixture(scope="module")
def models(world):
    return [world.scores(0.3, 1), world.scores(0.3, 2)]


@pytest.fixture(scope="module")
def found(world, models):
    return report.lds_tables(world.targets, world.measured, models, tokens="critical", samples=200)


def test_exact_influence_wins_with_the_right_damping(found) -> None:
    held = found["lds"][found["lds"]["selection"] == "held out"].set_index(["method", "target"])
    for target in ("math", "code", "mean"):
        assert held.loc[("refined", target), "lds"] > 0.8
        assert held.loc[("ekfac", target), "lds"] > 0.7
        assert abs(held.loc[("gradcos", target), "lds"]) < 0.5
        assert held.loc[("ekfac", target), "damping"] == 0.1
    assert np.isnan(held.loc[("gradcos", "math"), "damping"])
    row = held.loc[("ekfac", "mean")]
    assert row["low"] < row["lds"] < row["high"]
    assert (row["subsets"], row["seeds"], row["models"], row["responses"]) == (60, 2, 2, 12)
    mean = (held.loc[("ekfac", "math"), "lds"] + held.loc[("ekfac", "code"), "lds"]) / 2
    assert row["lds"] == pytest.approx(mean)


def test_differences_are_paired_and_signed(found) -> None:
    gaps = found["differences"].set_index(["reference", "method", "target"])
    assert gaps.loc[("ekfac", "gradcos", "mean"), "low"] > 0
    assert gaps.loc[("refined", "ekfac", "mean"), "difference"] == pytest.approx(
        -gaps.loc[("ekfac", "refined", "mean"), "difference"]
    )


def test_averaging_models_helps_where_their_errors_differ(found) -> None:
    alone = found["single"].query("method == 'ekfac' and target == 'mean'")["lds"].mean()
    together = found["lds"].query("method == 'ekfac' and target == 'mean' and selection == 'held out'")
    assert together["lds"].item() > alone


def test_the_keys_that_were_tuned_are_used_elsewhere(found) -> None:
    keys = report.tuned_keys(found["lds"])
    assert keys["ekfac"] == ("ekfac", 0.1)
    assert keys["gradcos"] == ("gradcos", None)


def test_the_ceiling_falls_with_noise(world) -> None:
    quiet = report.ceiling_table(world.targets, world.measured, tokens="critical", samples=50)
    assert quiet["ceiling"].tolist() == pytest.approx([1.0, 1.0, 1.0])
    spread = world.ridge.measure(world.targets.bench.membership).std()
    loud = World(3 * spread)
    noisy = report.ceiling_table(loud.targets, loud.measured, tokens="critical", samples=50)
    assert (noisy["ceiling"] < 0.9).all()
    assert set(noisy["target"]) == {"math", "code", "mean"}


def test_removing_what_helps_lowers_the_target(world, models, found) -> None:
    keys = report.tuned_keys(found["lds"])
    plan, left = report.removal_plan(
        world.targets, models, {"ekfac": keys["ekfac"], "refined": keys["refined"]}
    )
    assert (left.sum(axis=1) + plan["removed"] == 60).all()
    assert set(plan["removed"]) == {6, 18}
    table = report.removal_table(
        world.targets, plan, world.train(left, PARAMS.removal_seeds), tokens="critical", samples=100
    )
    change = table.set_index(["method", "end", "target", "fraction"])["change"]
    for method in ("ekfac", "refined"):
        for target in ("math", "code"):
            top, bottom = (change[method, end, target, 0.3] for end in ("top", "bottom"))
            assert top < change["random", "random", target, 0.3] < bottom
            assert top < 0 < bottom
    runs = table.set_index(["method", "end"])["retrainings"]
    assert set(runs["random", "random"]) == {6}
    assert set(runs["ekfac", "top"]) == {2}


def test_brittleness_is_one_for_the_same_model_and_less_for_another(world, models) -> None:
    keys = {"ekfac": ("ekfac", 0.1), "gradcos": ("gradcos", None), "refined": ("refined", 0.1)}
    table = report.brittleness_table(world.targets, models, keys).set_index(["method", "target"])
    assert table.loc[("refined", "math"), "spearman"] == pytest.approx(1)
    assert table.loc[("refined", "math"), "overlap"] == 1
    assert 0.5 < table.loc[("ekfac", "math"), "spearman"] < 0.999
    assert abs(table.loc[("gradcos", "math"), "spearman"]) < 0.4
    assert report.brittleness_table(world.targets, models[:1], keys).empty


def test_choices_are_judged_on_their_own_target_and_on_a_common_one(world, models) -> None:
    table = report.choice_table(
        world.targets,
        world.measured,
        {("whole", "reference"): models},
        key=("ekfac", 0.1),
        samples=100,
    )
    assert len(table) == 4
    assert (table["lds"] > 0.7).all()
    balanced = table[table["balanced"]]
    assert balanced["lds"].tolist() == pytest.approx(balanced["outcome"].tolist())


def test_figures_draw_what_the_tables_hold(world, models, found) -> None:
    held = found["lds"][found["lds"]["selection"] == "held out"]
    ceiling = report.ceiling_table(world.targets, world.measured, tokens="critical", samples=20)
    style.apply()
    drawn = figures.lds(held, ceiling)
    assert [axes.get_title(loc="left") for axes in drawn.axes] == [
        "mean of targets",
        "on mathematics",
        "on code",
    ]
    assert [text.get_text() for text in drawn.axes[0].get_yticklabels()] == [
        "EK-FAC", "refined EK-FAC", "gradient cosine",
    ]  # fmt: skip
    assert figures.lds(held, ceiling.iloc[:0]).axes
    assert len(figures.dampings(found["lds"].query("selection == 'fixed'")).axes) == 3
