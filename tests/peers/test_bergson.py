"""Against bergson: the same factors, the same scores, in both readings of a token."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import tiny_qwen2
from scipy.stats import spearmanr

pytest.importorskip("bergson", reason="bergson is not installed: `make peers`")

from benchmarks.bergson_peer import Bergson
from infra_lib.curvature import fit_factors
from infra_lib.influence import example_scores, position_scores, precondition, target_gradient, token_scores
from infra_lib.models import encode


@pytest.fixture(scope="module")
def setting(tokenizer, splits):
    model = tiny_qwen2(len(tokenizer))
    train = [encode(tokenizer, e, end_token=True) for e in splits.train[::3]]
    target = [encode(tokenizer, e, end_token=True) for e in splits.target if e.domain == "code"][:5]
    factors = fit_factors(model, train, labels="empirical", progress=False)
    direction = precondition(factors, target_gradient(model, list(factors.layers), target))
    return model, train, target, factors, {"code": direction}


@pytest.fixture(scope="module")
def peer(setting, tmp_path_factory):
    """Return bergson with our factors in its files."""
    model, train, target, factors, _ = setting
    # Each batch as long as its longest example, as ours are.
    found = Bergson(model, tmp_path_factory.mktemp("peer"), batch_tokens=512)
    found.save("train", train)
    found.save("code", target)
    found.take(factors)
    return found


def assert_same(ours, theirs) -> None:
    """Hold two lists of scores to the same order, the same sign and the same scale."""
    flat, other = np.concatenate(ours), np.concatenate(theirs)
    assert len(flat) == len(other)
    assert spearmanr(flat, other).statistic >= 0.999
    assert np.allclose(flat, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_example_scores_agree(setting, peer) -> None:
    model, train, _, _, direction = setting
    ours = example_scores(token_scores(model, train, direction, progress=False))["code"]
    assert_same([ours], peer.scores("train", "code"))


def test_position_scores_agree_token_by_token(setting, peer) -> None:
    model, train, _, _, direction = setting
    theirs = peer.scores("train", "code", reading="gradient")
    ours = position_scores(model, train, direction, progress=False)["code"]
    assert all(row[-1] == 0 for row in ours), "nothing follows the last token"
    assert_same([row[:-1] for row in ours], theirs)


def test_scores_of_loss_terms_agree_token_by_token(setting, peer) -> None:
    """What bergson calls token influence by output; kronfluence does not have it."""
    model, train, _, _, direction = setting
    theirs = peer.scores("train", "code", reading="output")
    ours = token_scores(model, train, direction, progress=False)["code"]
    prompts = [row[: -len(own)] for row, own in zip(theirs, ours, strict=True)]
    assert all((row == 0).all() for row in prompts), "a prompt's tokens carry no loss"
    assert_same(ours, [row[-len(own) :] for row, own in zip(theirs, ours, strict=True)])


def test_what_either_fits_gives_nearly_the_same_order(setting, tmp_path) -> None:
    """With the data's own labels nothing is random; bergson's covariances take in all of the prompt."""
    model, train, target, _, direction = setting
    own = Bergson(model, tmp_path, batch_tokens=512, empirical=True)
    own.save("train", train)
    own.save("code", target)
    own.fit("train")
    theirs = np.concatenate(own.scores("train", "code"))
    ours = example_scores(token_scores(model, train, direction, progress=False))["code"]
    assert spearmanr(ours, theirs).statistic >= 0.99
