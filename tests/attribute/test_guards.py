"""Scores that mean nothing are refused, and a sample is computed a second way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_qwen2
from running import provenance, run, scores

from infra_lib.attribute import checks
from infra_lib.attribute import score as scoring
from infra_lib.attribute.scorer import Scorer
from infra_lib.errors import InfraWarning, ModelError, NumericalError, ParameterError
from infra_lib.influence import target_gradient
from infra_lib.models import encode, mlp_linears, save_model


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", ["ekfac", "gradcos"])
@pytest.mark.parametrize("reading", ["loss", "position"])
def test_low_precision_is_compared_with_float32(
    model_folder, files, tmp_path, dtype, method, reading
) -> None:
    out = run(model_folder, files, tmp_path / "low", dtype=dtype, method=method, reading=reading)
    exact = scores(run(model_folder, files, tmp_path / "exact", method=method, reading=reading))
    record = provenance(out)["checks"]
    assert set(record["against_float32"]) == {"math", "code"}
    for target, found in record["against_float32"].items():
        assert set(found) == {"cosine", "spearman", "token_cosine", "gradient_cosine"}
        assert found["cosine"] > 0.99
        assert found["gradient_cosine"] > 0.99
        part = [s.xs(target, level="target") for s in (scores(out), exact)]
        assert checks.cosine(*(p.to_numpy() for p in part)) > 0.98
    assert record["warnings"] == []


def test_float32_is_not_compared_with_itself(model_folder, files, tmp_path) -> None:
    assert "against_float32" not in provenance(run(model_folder, files, tmp_path, method="graddot"))["checks"]


def numbers(cosine, **more):
    return {"math": {"cosine": cosine, "spearman": 1.0, "token_cosine": 1.0, "gradient_cosine": 1.0} | more}


def test_a_low_cosine_warns_and_a_very_low_one_raises() -> None:
    assert checks.judge(numbers(0.96), "bfloat16", with_tokens=True) == []
    text = r"in bfloat16 the cosine to float32 on math is 0\.80 .*--dtype float32"
    with pytest.warns(InfraWarning, match=text):
        assert len(checks.judge(numbers(0.8), "bfloat16", with_tokens=False)) == 1
    with pytest.raises(NumericalError, match="use --dtype float32"):
        checks.judge(numbers(-0.42), "bfloat16", with_tokens=False)
    with pytest.raises(NumericalError, match="gradient cosine"):
        checks.judge(numbers(1.0, gradient_cosine=0.1), "bfloat16", with_tokens=False)
    assert checks.judge(numbers(1.0, token_cosine=0.1), "bfloat16", with_tokens=False) == []
    with pytest.raises(NumericalError, match="token cosine"):
        checks.judge(numbers(1.0, token_cosine=0.1), "bfloat16", with_tokens=True)


@pytest.mark.reliability(kind="fault", title="scores that are mostly rounding")
def test_scores_that_are_mostly_rounding_are_refused(model_folder, files, tmp_path, monkeypatch) -> None:
    inner = scoring.Scorer.__call__

    def noisy(self, encoded, **options):
        found = inner(self, encoded, **options)
        if self.model.dtype == torch.float32:
            return found
        draw = np.random.default_rng(0).normal
        return {target: [draw(size=len(row)) for row in rows] for target, rows in found.items()}

    monkeypatch.setattr(scoring.Scorer, "__call__", noisy)
    with pytest.raises(NumericalError, match=r"cosine to float32 .* use --dtype float32"):
        run(model_folder, files, tmp_path, dtype="bfloat16", method="graddot")


@pytest.mark.reliability(kind="fault", title="a model that mixes up a batch's rows")
@pytest.mark.parametrize("method", ["ekfac", "graddot", "gradcos"])
def test_scores_that_depend_on_the_batch_are_refused(
    model_folder, files, tmp_path, monkeypatch, method
) -> None:
    out = run(model_folder, files, tmp_path, method=method)
    assert max(provenance(out)["checks"]["single_against_batch"].values()) < 1e-4
    inner = scoring.Scorer.__call__

    def mixed_up(self, encoded, *, batch_tokens=None, **options):
        found = inner(self, encoded, batch_tokens=batch_tokens, **options)
        if batch_tokens == 1:
            return found
        return {target: rows[::-1] for target, rows in found.items()}

    monkeypatch.setattr(scoring.Scorer, "__call__", mixed_up)
    with pytest.raises(NumericalError, match="depend on the batch"):
        run(model_folder, files, tmp_path, method=method)


@pytest.mark.reliability(kind="fault", title="losses that depend on the batch")
def test_losses_that_depend_on_the_batch_are_refused(model_folder, files, tmp_path, monkeypatch) -> None:
    out = run(model_folder, files, tmp_path, method="loss")
    assert max(provenance(out)["checks"]["single_against_batch"].values()) < 1e-4
    inner = scoring.baselines.losses

    def mixed_up(*args, batch_tokens, **options):
        found = inner(*args, batch_tokens=batch_tokens, **options)
        return found if batch_tokens == 1 else found[::-1]

    monkeypatch.setattr(scoring.baselines, "losses", mixed_up)
    with pytest.raises(NumericalError, match="losses depend on the batch"):
        run(model_folder, files, tmp_path, method="loss")


@pytest.mark.reliability(kind="fault", title="gradients of TRAK that depend on the batch")
def test_gradients_of_trak_that_depend_on_the_batch_are_refused(
    model_folder, files, tmp_path, monkeypatch
) -> None:
    from infra_lib import trak_scores

    out = run(model_folder, files, tmp_path, method="trak")
    assert max(provenance(out)["checks"]["single_against_batch"].values()) < 1e-4
    inner = trak_scores._Gradients.compute_per_sample_grad
    monkeypatch.setattr(
        trak_scores._Gradients, "compute_per_sample_grad", lambda self, batch: inner(self, batch).flip(0)
    )
    with pytest.raises(NumericalError, match="TRAK's gradients depend on the batch"):
        run(model_folder, files, tmp_path, method="trak")
    monkeypatch.setattr(
        trak_scores._Gradients, "compute_per_sample_grad", lambda self, batch: inner(self, batch) * 0
    )
    with pytest.raises(NumericalError, match="TRAK's gradients are zero or not finite"):
        run(model_folder, files, tmp_path, method="trak")
    monkeypatch.setattr(
        trak_scores._Gradients,
        "compute_per_sample_grad",
        lambda self, batch: inner(self, batch) * (float("nan") if len(batch.rows) > 1 else 1.0),
    )
    with pytest.raises(NumericalError, match="TRAK's gradients are zero or not finite"):
        run(model_folder, files, tmp_path, method="trak")


@pytest.mark.reliability(kind="fault", title="scores that are not finite, all zero or all equal")
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([1.0, float("nan")], "not finite"),
        ([1.0, float("inf")], "not finite"),
        ([0.0, 0.0], "score 0"),
        ([0.0], "score 0"),
        ([2.0, 2.0], "same score"),
    ],
)
def test_scores_that_mean_nothing_are_refused(values, problem) -> None:
    checks.refuse_meaningless({"fine": np.array([1.0, 2.0])})
    checks.refuse_meaningless({"one": np.array([1.0])})
    with pytest.raises(NumericalError, match=problem):
        checks.refuse_meaningless({"fine": np.array([1.0, 2.0]), "t": np.array(values)})


@pytest.mark.reliability(kind="fault", title="constant scores, by every method without gradients")
@pytest.mark.parametrize("method", ["trak", "loss", "length", "bm25", "random"])
def test_every_method_without_gradients_is_guarded(
    model_folder, files, tmp_path, monkeypatch, method
) -> None:
    from infra_lib import trak_scores

    constant = {"math": np.ones(10), "code": np.ones(10)}
    monkeypatch.setattr(
        trak_scores, "trak_scores", lambda *_, **__: trak_scores.TrakScores(constant, self_rank=1.0)
    )
    monkeypatch.setattr(scoring.baselines, "chance", lambda *_, **__: constant)
    monkeypatch.setattr(scoring.baselines, "lexical", lambda *_, **__: constant)
    monkeypatch.setattr(scoring.baselines, "losses", lambda *_, **__: np.full(10, np.nan))
    monkeypatch.setattr(scoring.baselines, "lengths", lambda *_, **__: np.ones(10))
    with pytest.raises(NumericalError, match=r"same score|not finite"):
        run(model_folder, files, tmp_path, method=method)


@pytest.mark.reliability(kind="fault", title="activations and weights beyond float16")
def test_overflow_in_float16_is_named(model_folder, tokenizer, files, tmp_path) -> None:
    loud = tiny_qwen2(len(tokenizer))
    with torch.no_grad():  # activations beyond 65504, weights within
        for layer in loud.model.layers:
            layer.mlp.up_proj.weight.mul_(3e3)
            layer.mlp.gate_proj.weight.mul_(3e3)
    save_model(loud, tokenizer, tmp_path / "loud")
    with pytest.raises(NumericalError, match=r"not finite|nan|inf") as caught:
        run(tmp_path / "loud", files, tmp_path / "out", dtype="float16")
    assert "float16" in str(caught.value)
    assert "--dtype float32" in str(caught.value)
    with torch.no_grad():
        loud.model.layers[1].mlp.down_proj.weight[0, 0] = 1e6
    save_model(loud, tokenizer, tmp_path / "louder")
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.down_proj\.weight .*not finite in float16"):
        run(tmp_path / "louder", files, tmp_path / "out", dtype="float16")


@pytest.mark.parametrize("reading", ["loss", "position"])
def test_directions_beyond_float16_are_scored_in_it(tokenizer, splits, reading) -> None:
    """Scores are linear in the direction, which is scaled to what float16 can hold."""
    rows = [encode(tokenizer, example) for example in splits.train[::8]]
    model = tiny_qwen2(len(tokenizer))
    direction = target_gradient(model, list(mlp_linears(model)), rows)
    exact = Scorer(model, {"t": direction}, reading)(rows)["t"]
    huge = {name: part * 1e9 for name, part in direction.items()}
    assert max(float(part.abs().max()) for part in huge.values()) > 65504
    found = Scorer(tiny_qwen2(len(tokenizer)).half(), {"t": huge}, reading)(rows)["t"]
    ours, wanted = np.concatenate(found), np.concatenate(exact)
    assert checks.cosine(ours, wanted) > 0.99
    assert np.linalg.norm(ours) == pytest.approx(1e9 * np.linalg.norm(wanted), rel=0.02)


@pytest.mark.reliability(kind="bad input", title="infra attribute: TRAK below float32")
def test_trak_below_float32_is_refused(model_folder, files, tmp_path) -> None:
    with pytest.raises(ParameterError, match="--dtype is 'bfloat16': it must be float32 with --method trak"):
        run(model_folder, files, tmp_path, dtype="bfloat16", method="trak")


def test_the_loss_in_low_precision_is_compared(model_folder, files, tmp_path) -> None:
    found = provenance(run(model_folder, files, tmp_path, dtype="bfloat16", method="loss"))["checks"]
    assert found["against_float32"]["math"]["cosine"] > 0.99


@pytest.mark.parametrize(("count", "wanted"), [(1, 8), (7, 8), (8, 8), (100, 8), (3, 4)])
def test_samples_are_spread_over_the_list(count, wanted) -> None:
    rows = checks.sample(count, wanted)
    assert len(rows) == min(count, wanted)
    assert rows[0] == 0
    assert rows[-1] == count - 1
