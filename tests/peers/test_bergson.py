"""Against bergson: the same factors, the same scores, in both readings of a token."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import numpy as np
import pytest
from conftest import tiny_qwen2
from scipy.stats import spearmanr

from infra_lib.curvature import fit_factors
from infra_lib.influence import example_scores, position_scores, precondition, target_gradient, token_scores
from infra_lib.models import encode

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bergson") is None, reason="bergson is not installed: `make peers`"
)


@pytest.fixture(scope="module")
def bergson() -> Any:
    """Return our class around bergson, whose import takes over the root logger: it is given back."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    from benchmarks.bergson_peer import Bergson

    root.setLevel(level)
    root.handlers[:] = handlers
    return Bergson


@pytest.fixture(scope="module")
def setting(tokenizer, splits):
    model = tiny_qwen2(len(tokenizer))
    train = [encode(tokenizer, e, end_token=True) for e in splits.train[::3]]
    targets = {
        domain: [encode(tokenizer, e, end_token=True) for e in splits.target if e.domain == domain][:5]
        for domain in ("math", "code")
    }
    factors = fit_factors(model, train, labels="empirical", progress=False)
    directions = {
        domain: precondition(factors, target_gradient(model, list(factors.layers), rows))
        for domain, rows in targets.items()
    }
    return model, train, targets, factors, directions


@pytest.fixture(scope="module")
def peer(bergson, setting, tmp_path_factory):
    """Return bergson with our factors in its files."""
    model, train, targets, factors, _ = setting
    found = bergson(model, tmp_path_factory.mktemp("peer"), batch_tokens=512)
    for name, rows in {"train": train, **targets}.items():
        found.save(name, rows)
    found.take(factors)
    return found


def assert_same(ours, theirs) -> None:
    """Hold two lists of scores to the same order, the same sign and the same scale."""
    flat, other = np.concatenate(ours), np.concatenate(theirs)
    assert len(flat) == len(other)
    assert spearmanr(flat, other).statistic >= 0.999
    assert np.allclose(flat, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_example_scores_agree(setting, peer) -> None:
    model, train, targets, _, directions = setting
    theirs = peer.scores("train", list(targets))
    ours = example_scores(token_scores(model, train, directions, progress=False))
    for target in targets:
        assert_same([ours[target]], theirs[target])


def test_position_scores_agree_token_by_token(setting, peer) -> None:
    model, train, targets, _, directions = setting
    theirs = peer.scores("train", list(targets), reading="gradient")
    ours = position_scores(model, train, directions, progress=False)
    for target in targets:
        assert all(row[-1] == 0 for row in ours[target]), "nothing follows the last token"
        assert_same([row[:-1] for row in ours[target]], theirs[target])


def test_scores_of_loss_terms_agree_token_by_token(setting, peer) -> None:
    """What bergson calls token influence by output; kronfluence does not have it."""
    model, train, targets, _, directions = setting
    theirs = peer.scores("train", list(targets), reading="output")
    ours = token_scores(model, train, directions, progress=False)
    for target in targets:
        pairs = list(zip(theirs[target], ours[target], strict=True))
        assert all((row[: -len(own)] == 0).all() for row, own in pairs), "a prompt's tokens carry no loss"
        assert_same(ours[target], [row[-len(own) :] for row, own in pairs])


def test_what_either_fits_gives_nearly_the_same_scores(bergson, setting, tmp_path) -> None:
    """With the data's own labels nothing is random; bergson's covariances take in all of the prompt."""
    model, train, targets, _, directions = setting
    own = bergson(model, tmp_path, batch_tokens=512, empirical=True)
    for name, rows in {"train": train, **targets}.items():
        own.save(name, rows)
    own.fit("train")
    theirs = own.scores("train", list(targets))
    ours = example_scores(token_scores(model, train, directions, progress=False))
    for target in targets:
        assert np.corrcoef(ours[target], np.concatenate(theirs[target]))[0, 1] >= 0.99
