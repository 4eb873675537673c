"""Against kronfluence, the reference implementation: the same factors, the same scores."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from conftest import tiny_qwen2
from scipy.stats import spearmanr

pytest.importorskip("kronfluence", reason="kronfluence is not installed: `make peers`")

from benchmarks.kronfluence_peer import Kronfluence
from infra_lib.curvature import fit_factors
from infra_lib.influence import example_scores, position_scores, precondition, target_gradient, token_scores
from infra_lib.models import encode

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def setting(tokenizer, splits):
    model = tiny_qwen2(len(tokenizer))
    train = [encode(tokenizer, e, end_token=True) for e in splits.train[::2]]
    target = [encode(tokenizer, e, end_token=True) for e in splits.target if e.domain == "math"][:6]
    factors = fit_factors(model, train, labels="empirical", progress=False)
    direction = precondition(factors, target_gradient(model, list(factors.layers), target))
    return model, train, target, factors, {"math": direction}


@pytest.fixture(scope="module")
def peer(setting, tmp_path_factory):
    """Return kronfluence with our factors in its files."""
    model, _, _, factors, _ = setting
    found = Kronfluence(copy.deepcopy(model), tmp_path_factory.mktemp("peer"), batch=8)
    found.take(factors)
    return found


def test_example_scores_agree(setting, peer) -> None:
    model, train, target, _, direction = setting
    theirs = peer.scores(train, target, per_token=False, name="examples")
    ours = example_scores(token_scores(model, train, direction, progress=False))["math"]
    assert spearmanr(ours, theirs).statistic >= 0.999
    # The same sign and the same scale, not the order alone.
    assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_position_scores_agree_token_by_token(setting, peer) -> None:
    model, train, target, _, direction = setting
    theirs = peer.scores(train, target, per_token=True, name="positions")
    ours = position_scores(model, train, direction, progress=False)["math"]
    flat = np.concatenate(ours)
    other = np.concatenate([row[: len(own)] for row, own in zip(theirs, ours, strict=True)])
    assert len(flat) > 1000
    assert spearmanr(flat, other).statistic >= 0.999
    assert np.allclose(flat, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_what_either_fits_agrees_up_to_the_basis(setting, tmp_path) -> None:
    """With the data's own labels nothing is random: gradients' squared norms are equal, scores nearly so.

    kronfluence's G takes in the prompt's positions too, ours only those with a loss term, so that the
    eigenbases differ a little; Σ Λ, the mean squared norm of a gradient, depends on no basis.
    """
    model, train, target, factors, direction = setting
    peer = Kronfluence(copy.deepcopy(model), tmp_path, batch=8, empirical=True)
    peer.fit(train)
    theirs = peer.factors()
    for name, layer in factors.layers.items():
        total = theirs["lambda_matrix"][name].sum() / theirs["num_lambda_processed"][name]
        assert float(total) == pytest.approx(float(layer.corrected.sum()), rel=1e-4)
    scores = peer.scores(train, target, per_token=False, name="own")
    ours = example_scores(token_scores(model, train, direction, progress=False))["math"]
    assert spearmanr(ours, scores).statistic >= 0.99
