"""Scores from gradients held outright are those of the library's other paths; tokens are chosen by rule."""

from __future__ import annotations

import numpy as np
import pytest

from infra_lib.curvature import fit_factors
from infra_lib.errors import ParameterError
from infra_lib.influence import example_scores, precondition, target_gradient, token_scores
from infra_lib.models import encode, load_model
from infra_lib.validation.gradients import gradient_scores
from infra_lib.validation.scores import Columns, Settings, score_model
from infra_lib.validation.targets import restricted, spans, token_mask


@pytest.fixture(scope="module")
def scored(model_folder, splits, tokenizer):
    model = load_model(model_folder)
    train = [encode(tokenizer, ex, end_token=True) for ex in splits.train[:6]]
    target = [encode(tokenizer, ex, end_token=True) for ex in splits.target[:4]]
    factors = fit_factors(model, train, diagonal=True, progress=False)
    return model, train, target, factors


@pytest.mark.parametrize("method", ["ekfac", "kfac", "diagonal"])
def test_columns_average_to_the_score_on_the_mean_target(scored, method: str) -> None:
    model, train, target, factors = scored
    tables = gradient_scores(model, train, target, factors, [0.1, 3.0], methods=[method])
    gradient = target_gradient(model, list(factors.layers), target)
    for damping in (0.1, 3.0):
        direction = precondition(factors, gradient, damping=damping, method=method)
        expected = example_scores(token_scores(model, train, {"t": direction}, progress=False))["t"]
        found = tables[method, damping].mean(axis=1)
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-3 * np.abs(expected).max())


def test_layers_in_groups_give_the_same(scored) -> None:
    model, train, target, factors = scored
    whole = gradient_scores(model, train, target, factors, [0.1])
    parts = gradient_scores(model, train, target, factors, [0.1], memory_bytes=1)
    for key, table in whole.items():
        assert parts[key] == pytest.approx(table, rel=1e-4, abs=1e-5 * np.abs(table).max())


def test_cosine_is_dot_over_the_examples_norm(scored) -> None:
    model, train, target, factors = scored
    tables = gradient_scores(model, train, [*target, *train], factors, [0.1], methods=[])
    norms = np.sqrt(np.diag(tables["graddot", None][:, len(target) :]))
    assert tables["gradcos", None] * norms[:, None] == pytest.approx(tables["graddot", None], rel=1e-4)


def test_every_method_scores_every_example(model_folder, splits, tokenizer) -> None:
    responses = splits.target[:4]
    masks = [
        token_mask(ex.response, encode(tokenizer, ex, end_token=True).offsets, "critical") for ex in responses
    ]
    settings = Settings(dampings=[0.1, 1e4], refine_dampings=[0.1, 1e4], refine_iterations=2, projections=8)
    columns = Columns(responses, masks, {"t": np.full(4, 0.25)})
    found = score_model(model_folder, splits.train[:6], columns, settings)
    assert {key[0] for key in found.on("t")} == set(settings.methods)
    for key, table in found.on("t").items():
        assert table.shape == ((6, 1) if key[0] == "refined" else (6, 4))
        assert np.isfinite(table).all()
        assert table.std() > 0
    # Where damping is all of the curvature there is nothing to refine.
    for damping, alike in ((1e4, True), (0.1, False)):
        refined = found.whole["t"]["refined", damping][:, 0]
        plain = found.tables["ekfac", damping].mean(axis=1)
        assert (np.corrcoef(refined, plain)[0, 1] > 0.999) == alike


@pytest.mark.reliability(kind="bad input", title="methods and targets of a validation that are not known")
def test_unknown_choices_are_named() -> None:
    with pytest.raises(ParameterError, match="validation_methods"):
        Settings(methods=["magic"]).check()
    with pytest.raises(ParameterError, match="validation_layers"):
        Settings(layers="heads").check()
    with pytest.raises(ParameterError, match="whole, critical, final"):
        spans("x", "some")


def _counted(text: str, tokens: str) -> str:
    return "|".join(text[start:end] for start, end in spans(text, tokens))


def test_critical_tokens_are_results_and_the_answer() -> None:
    text = "Start with 12. First 12 + 4 = 16. Next it halves, so 16 / 2 = 8. Therefore the answer is 8."
    assert _counted(text, "final") == "8"
    assert spans(text, "final")[0][0] == len(text) - 2
    assert _counted(text, "critical") == "8|16|8"
    assert spans(text, "whole") == [(0, len(text) + 1)]


def test_a_program_counts_as_the_answer() -> None:
    text = "Finally return the sum.\n```python\ndef f(x):\n    x = [v + 1 for v in x]\n    return sum(x)\n```"
    assert _counted(text, "final") == "def f(x):\n    x = [v + 1 for v in x]\n    return sum(x)\n"
    assert "Finally" not in _counted(text, "critical")


def test_a_text_without_an_answer_counts_as_a_whole() -> None:
    assert spans("No idea", "final") == spans("No idea", "whole")


def test_masks_fit_the_tokens_and_restrict_the_loss(splits, tokenizer) -> None:
    for example in splits.train[:10]:
        row = encode(tokenizer, example, end_token=True)
        masks = {
            tokens: token_mask(example.response, row.offsets, tokens)
            for tokens in ("whole", "critical", "final")
        }
        assert masks["whole"].all()
        assert 0 < masks["final"].sum() <= masks["critical"].sum() < masks["whole"].sum()
        assert not (masks["final"] & ~masks["critical"]).any()
        chosen = restricted(row, masks["critical"])
        assert chosen.n_tokens == chosen.loss_mask.sum() == masks["critical"].sum()
        ids = row.input_ids[row.loss_mask][masks["critical"]]
        assert chosen.input_ids[chosen.loss_mask].tolist() == ids.tolist()
        with pytest.raises(ParameterError, match="target_tokens"):
            restricted(row, np.zeros(row.n_tokens, dtype=bool))
