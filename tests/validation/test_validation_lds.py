"""The linear datamodeling score where the truth is known: a ridge regression with exact influence."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from infra_lib.errors import NumericalError, ParameterError
from infra_lib.statistics import percentile_interval
from infra_lib.validation import lds
from infra_lib.validation.subsets import half_subsets


class Ridge:
    """Least squares with a ridge: training on a subset, and influence, in closed form."""

    def __init__(self, seed: int = 0, examples: int = 60, features: int = 8, targets: int = 12) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.standard_normal((examples, features))
        self.y = self.x @ rng.standard_normal(features) + rng.standard_normal(examples)
        self.questions = rng.standard_normal((targets, features))
        self.answers = self.questions @ rng.standard_normal(features)

    def fit(self, rows: np.ndarray) -> np.ndarray:
        x, y = self.x[rows], self.y[rows]
        return np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)

    def measure(self, membership: np.ndarray) -> np.ndarray:
        """Log-likelihood of each target (unit variance) after training on each subset."""
        return np.stack(
            [-0.5 * (self.answers - self.questions @ self.fit(np.flatnonzero(m))) ** 2 for m in membership]
        )

    def influence(self) -> np.ndarray:
        """∇f H⁻¹ (−∇loss) of every example on every target, at the model trained on everything."""
        everything = np.arange(len(self.x))
        theta = self.fit(everything)
        hessian = self.x.T @ self.x + np.eye(self.x.shape[1])
        steps = np.linalg.solve(hessian, (self.x * (self.y - self.x @ theta)[:, None]).T)
        gradients = (self.answers - self.questions @ theta)[:, None] * self.questions
        return (gradients @ steps).T


@pytest.fixture(scope="module")
def ridge():
    model = Ridge()
    membership = half_subsets([f"e{i}" for i in range(60)], 80, seed=1)
    return model, membership, model.measure(membership)


def _score(scores, membership, measured, **options):
    weights = np.full(measured.shape[1], 1 / measured.shape[1])
    draws = lds.draw(len(membership), weights, samples=200, **options)
    sampled = lds.sampled_scores(scores, membership, measured, draws)
    return lds.held_out(sampled, lds.tune([sampled]))


def test_exact_influence_scores_near_one_and_shuffled_influence_near_zero(ridge) -> None:
    model, membership, measured = ridge
    exact = model.influence()
    shuffled = exact[np.random.default_rng(5).permutation(len(exact))]
    found = _score({("exact", None): exact, ("shuffled", None): shuffled}, membership, measured)
    assert found["exact"][0] > 0.85
    assert abs(found["shuffled"][0]) < 0.35
    low, high = percentile_interval(found["shuffled"][1:], 0.95)
    assert high - low > 0.1
    gap = lds.differences(found, "exact")
    assert gap.loc[0, "low"] > 0.3
    assert gap.loc[0, "p_value"] < 0.05


def test_each_response_alone_is_the_mean_of_their_scores(ridge) -> None:
    model, membership, measured = ridge
    predicted = lds.group_effects(membership, model.influence())
    draws = lds.draw(len(membership), np.full(12, 1 / 12), samples=20)
    found = lds.fold_scores(predicted, measured, draws, each=True)
    half = draws.folds[0]
    expected = np.mean([spearmanr(predicted[half, i], measured[half, i]).statistic for i in range(12)])
    assert found[0, 0] == pytest.approx(expected)
    assert found.shape == (2, 21)
    whole = {("ekfac", None): model.influence(), ("refined", None): model.influence()[:, :1]}
    assert set(lds.sampled_scores(whole, membership, measured, draws, each=True)) == {("ekfac", None)}


def test_one_wild_response_decides_the_mean_target_and_not_the_mean_of_each(ridge) -> None:
    model, membership, measured = ridge
    wild, scores = measured.copy(), model.influence()
    wild[:, 0] = 1e4 * np.random.default_rng(0).standard_normal(len(wild))
    draws = lds.draw(len(membership), np.full(12, 1 / 12), samples=1)
    predicted = lds.group_effects(membership, scores)
    assert lds.fold_scores(predicted, wild, draws).mean(axis=0)[0] < 0.4
    assert lds.fold_scores(predicted, wild, draws, each=True).mean(axis=0)[0] > 0.6


def test_the_sign_counts(ridge) -> None:
    model, membership, measured = ridge
    found = _score({("wrong way", None): -model.influence()}, membership, measured)
    assert found["wrong way"][0] < -0.85


def test_spearman_is_scipys_in_every_column() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(6, size=(2, 30, 5)).astype(float)
    expected = [spearmanr(first[:, k], second[:, k]).statistic for k in range(5)]
    assert lds.spearman(first, second) == pytest.approx(expected)
    assert np.isnan(lds.spearman(np.ones((4, 1)), np.arange(4.0)[:, None]))[0]


def test_damping_is_chosen_by_the_other_half() -> None:
    """One damping is right in one half and wrong in the other; each half must get the other's choice."""
    halves = {("m", 1.0): np.array([[0.9], [-0.9]]), ("m", 2.0): np.array([[-0.5], [0.8]])}
    assert lds.tune([halves]) == {"m": [2.0, 1.0]}
    found = lds.held_out(halves, {"m": [2.0, 1.0]})
    assert found["m"][0] == pytest.approx((-0.5 - 0.9) / 2)


def test_tuning_noise_does_not_flatter_held_out_scores() -> None:
    """Of forty dampings that mean nothing the best looks good where it was chosen, and not elsewhere."""
    rng = np.random.default_rng(3)
    chosen, elsewhere = [], []
    for repeat in range(30):
        membership = half_subsets([f"e{i}" for i in range(20)], 24, seed=repeat)
        scores = {("noise", float(k)): rng.standard_normal((20, 1)) for k in range(40)}
        measured = rng.standard_normal((24, 1))
        draws = lds.draw(24, np.ones(1), samples=1, seed=repeat)
        sampled = lds.sampled_scores(scores, membership, measured, draws)
        elsewhere.append(lds.held_out(sampled, lds.tune([sampled]))["noise"][0])
        chosen.append(max(value[:, 0].mean() for value in sampled.values()))
    assert np.mean(chosen) > 0.3
    assert abs(np.mean(elsewhere)) < 0.12


def test_halves_share_no_subset_and_methods_share_their_draws() -> None:
    draws = lds.draw(21, np.full(4, 0.25), samples=50, seed=2)
    first, second = draws.folds
    assert set(first) | set(second) == set(range(21))
    assert not set(first) & set(second)
    assert set(draws.subsets[0].ravel()) <= set(first)
    again = lds.draw(21, np.array([0.5, 0.5, 0, 0]), samples=50, seed=2)
    assert np.array_equal(draws.subsets[1], again.subsets[1])
    assert not again.weights[2:].any()
    assert again.weights.sum(axis=0) == pytest.approx(np.ones(51))


def test_intervals_cover_the_true_score() -> None:
    """Bivariate normal f and g: 90 % intervals hold the population's Spearman most of the time."""
    rho = 0.6
    truth = 6 / np.pi * np.arcsin(rho / 2)
    rng = np.random.default_rng(7)
    held = 0
    for repeat in range(120):
        g = rng.standard_normal((60, 1))
        f = rho * g + np.sqrt(1 - rho**2) * rng.standard_normal((60, 1))
        draws = lds.draw(60, np.ones(1), samples=300, folds=1, seed=repeat)
        low, high = percentile_interval(lds.fold_scores(g, f, draws)[0, 1:], 0.9)
        held += low <= truth <= high
    assert 0.8 <= held / 120 <= 0.98


def test_intervals_see_the_target_examples() -> None:
    """With target examples that disagree the interval is wider than with examples that are all alike."""
    rng = np.random.default_rng(1)
    common = rng.standard_normal((60, 1))
    scores, alike = np.repeat(common, 6, 1), np.repeat(common, 6, 1)
    mixed = alike.copy()
    mixed[:, 3:] *= -0.9
    draws = lds.draw(60, np.full(6, 1 / 6), samples=400, folds=1)
    widths = [
        np.subtract(*percentile_interval(lds.fold_scores(scores, f, draws)[0, 1:], 0.9)[::-1])
        for f in (alike, mixed)
    ]
    assert widths[1] > widths[0] + 0.5


@pytest.mark.parametrize(("noise", "seeds"), [(0.5, 1), (1.0, 3)])
def test_the_noise_ceiling_is_what_the_truth_itself_scores(noise: float, seeds: int) -> None:
    rng = np.random.default_rng(11)
    truth = rng.standard_normal(4000)
    repeated = truth[:, None] + noise * rng.standard_normal((4000, 4))
    judged = truth + noise * rng.standard_normal((4000, seeds)).mean(axis=1)
    ceiling = lds.noise_ceiling(repeated, seeds, samples=20)
    assert ceiling["ceiling"] == pytest.approx(spearmanr(truth, judged).statistic, abs=0.03)
    assert ceiling["low"] <= ceiling["ceiling"] <= ceiling["high"]


def test_pure_noise_has_no_ceiling() -> None:
    repeated = np.random.default_rng(0).standard_normal((2000, 2))
    assert lds.noise_ceiling(repeated, 4, samples=10)["ceiling"] < 0.35


@pytest.mark.reliability(kind="bad input", title="validation by scores or subsets that do not fit")
def test_bad_input_is_named() -> None:
    with pytest.raises(ParameterError, match="validation_subsets is 4"):
        lds.draw(4, np.ones(1))
    with pytest.raises(ParameterError, match="one row for each of the 3"):
        lds.group_effects(np.ones((2, 3)), np.ones((4, 1)))
    with pytest.raises(NumericalError, match="not finite"):
        lds.group_effects(np.ones((2, 3)), np.full((3, 1), np.nan))
    with pytest.raises(ParameterError, match="ceiling"):
        lds.noise_ceiling(np.ones((5, 1)), 1)
    with pytest.raises(ParameterError, match="reference"):
        lds.differences({"a": np.ones(3)}, "b")
