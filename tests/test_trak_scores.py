"""TRAK through the reference implementation: right gradients, right algebra, and no silent failure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_qwen2

import infra_lib.trak_scores as module
from infra_lib.errors import NumericalError, ParameterError
from infra_lib.models import batches, encode, mlp_linears
from infra_lib.responses import token_log_probs
from infra_lib.trak_scores import log_odds, trak_scores, trak_sweep


@pytest.fixture(scope="module")
def rows(tokenizer, splits):
    return [encode(tokenizer, example, end_token=True) for example in splits.train]


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_qwen2(len(tokenizer))


def test_model_output_is_the_sum_of_log_odds(model, rows) -> None:
    batch = batches(rows[:3], batch_tokens=9999, pad_id=0)[0]
    probs = token_log_probs(model, batch).double().exp()
    expected = torch.where(batch.loss_mask, (probs / (1 - probs)).log(), 0.0).sum(1)
    assert torch.allclose(log_odds(model, batch)[0].sum(1).double(), expected, rtol=1e-4)


def test_log_odds_are_exact_however_sure_the_model_is(model, rows) -> None:
    batch = batches(rows[:3], batch_tokens=9999, pad_id=0)[0]
    vocabulary = model.get_output_embeddings().weight.shape[0]
    torch.manual_seed(0)
    for surplus in (0.0, 12.0, 25.0, 60.0):
        logits = torch.randn(len(batch.labels), vocabulary, dtype=torch.float64)
        logits[torch.arange(len(batch.labels)), batch.labels] += surplus

        def gradient(values, of, logits=logits):
            leaf = logits.to(values).requires_grad_(True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "response_logits", lambda *_: leaf)
                odds, rest = of(model, batch)
            return odds[batch.loss_mask], rest[batch.loss_mask], torch.autograd.grad(odds.sum(), leaf)[0]

        exact, rest, wide = gradient(torch.float64, log_odds)
        found, narrow_rest, narrow = gradient(torch.float32, log_odds)
        assert torch.allclose(found.double(), exact, rtol=1e-5, atol=1e-5)
        assert torch.allclose(narrow_rest.double(), rest, rtol=1e-4, atol=1e-30)
        assert (narrow.double() - wide).norm() < 1e-5 * wide.norm()
        # Of log p_y − log(1 − p_y), without going through either: e_y less the softmax of the others.
        others = logits.scatter(-1, batch.labels.unsqueeze(-1), -torch.inf).softmax(-1)
        one = torch.zeros_like(logits).scatter(-1, batch.labels.unsqueeze(-1), 1.0)
        assert torch.allclose(wide, one - others, atol=1e-10)


def test_per_example_gradients_equal_plain_ones(model, rows) -> None:
    names = [f"{name}.weight" for name in mlp_linears(model)]
    computer = module._Gradients(
        model, module._Output(), 0, dtype=torch.float32, device="cpu", grad_wrt=names
    )
    batch = batches(rows[:4], batch_tokens=9999, pad_id=0)[0]
    found = computer.compute_per_sample_grad(batch)
    weights = [m.weight for m in mlp_linears(model).values()]
    for i, index in enumerate(batch.rows):
        alone = batches([rows[index]], batch_tokens=1, pad_id=0)[0]
        plain = torch.autograd.grad(module._Output.get_output(model, alone).sum(), weights)
        expected = torch.cat([g.flatten() for g in plain])
        assert torch.allclose(found[i], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_examples_find_themselves_even_with_more_dimensions_than_examples(model, rows) -> None:
    found = trak_scores(model, rows, {"t": rows[:2]}, proj_dim=128)
    assert found.self_rank == 1.0
    assert found.scores["t"].shape == (len(rows),)
    assert set(np.argsort(-found.scores["t"])[:2]) == {0, 1}


def test_scores_follow_the_seed_and_not_the_batches(model, rows) -> None:
    first = trak_scores(model, rows, {"t": rows[:4]}, proj_dim=64).scores["t"]
    small = trak_scores(model, rows, {"t": rows[:4]}, proj_dim=64, batch_tokens=1).scores["t"]
    other = trak_scores(model, rows, {"t": rows[:4]}, proj_dim=64, seed=5).scores["t"]
    assert np.allclose(first, small, rtol=1e-4, atol=1e-4 * np.abs(first).max())
    assert not np.allclose(first, other, rtol=1e-2)


def test_an_ensemble_is_not_its_first_checkpoint(tokenizer, model, rows) -> None:
    states = [tiny_qwen2(len(tokenizer), seed=s).state_dict() for s in (0, 1)]
    both = trak_scores(tiny_qwen2(len(tokenizer)), rows, {"t": rows[:2]}, checkpoints=states, proj_dim=64)
    one = trak_scores(tiny_qwen2(len(tokenizer)), rows, {"t": rows[:2]}, checkpoints=states[:1], proj_dim=64)
    assert both.self_rank == 1.0
    assert not np.allclose(both.scores["t"], one.scores["t"])


def test_a_sweep_of_ridges_is_one_run_for_each(tokenizer, rows) -> None:
    states = [tiny_qwen2(len(tokenizer), seed=s).state_dict() for s in (0, 1)]
    options = {"checkpoints": states, "proj_dim": 64}
    swept = trak_sweep(tiny_qwen2(len(tokenizer)), rows, {"t": rows[:3]}, [0.1, 10.0], **options)
    for ridge, found in swept.items():
        alone = trak_scores(tiny_qwen2(len(tokenizer)), rows, {"t": rows[:3]}, ridge=ridge, **options)
        assert np.allclose(found.scores["t"], alone.scores["t"], rtol=1e-4)
        assert found.self_rank == alone.self_rank
    assert not np.allclose(swept[0.1].scores["t"], swept[10.0].scores["t"], rtol=0.1)
    with pytest.raises(ParameterError, match="ridges"):
        trak_sweep(tiny_qwen2(len(tokenizer)), rows, {"t": rows[:3]}, [])


@pytest.mark.reliability(kind="fault", title="projections of TRAK that are zero or not finite")
def test_zero_projections_are_an_error(model, rows, monkeypatch) -> None:
    monkeypatch.setattr(
        module.BasicProjector, "project", lambda self, grads, model_id: torch.zeros(len(grads), 64)
    )
    with pytest.raises(NumericalError, match="zero or not finite"):
        trak_scores(model, rows, {"t": rows[:2]}, proj_dim=64)


@pytest.mark.reliability(kind="bad input", title="TRAK with a dimension or ridge that cannot be")
def test_bad_input_is_named(model, rows) -> None:
    for ridge in (0, -1, float("nan")):
        with pytest.raises(ParameterError, match="ridge"):
            trak_scores(model, rows, {"t": rows[:1]}, ridge=ridge)
    with pytest.raises(ParameterError, match="proj_dim"):
        trak_scores(model, rows, {"t": rows[:1]}, proj_dim=1)


def test_the_projector_goes_by_the_device(monkeypatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert not module.has_kernels("cuda", 512), "fast_jl is not installed"
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    assert module.has_kernels("cuda", 1024)
    assert not module.has_kernels("cuda", 64), "its kernels project to multiples of 512"
    assert not module.has_kernels("cpu", 512)
