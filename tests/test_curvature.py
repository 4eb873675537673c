"""EK-FAC factors against brute force in double precision, and the invariances that they must hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_qwen2

from infra_lib.curvature import eigenbasis, fit_factors, partitions
from infra_lib.errors import ModelError, NumericalError, ParameterError
from infra_lib.influence import check_model
from infra_lib.models import encode, mlp_linears


@pytest.fixture(scope="module")
def rows(tokenizer, splits):
    return [encode(tokenizer, example, end_token=True) for example in splits.train[::3]]


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_qwen2(len(tokenizer)).double()


def fit(model, rows, **options):
    return fit_factors(model, rows, labels="empirical", progress=False, **options)


def brute_force(model, rows):
    """Return A, G and per-example gradients by plain autograd, one example and one position at a time."""
    modules = mlp_linears(model)
    inputs, outputs = {}, {}
    handles = []
    for name, module in modules.items():

        def keep(_m, args, output, name=name):
            inputs[name], outputs[name] = args[0], output
            output.retain_grad()

        handles.append(module.register_forward_hook(keep))
    sums = {name: [0.0, 0.0, 0, []] for name in modules}
    for row in rows:
        model.zero_grad()
        logits = model(row.input_ids[None]).logits[0].log_softmax(-1)
        where = torch.where(row.loss_mask)[0]
        (-sum(logits[t - 1, row.input_ids[t]] for t in where)).backward()
        for name, module in modules.items():
            a, d = inputs[name][0].detach(), outputs[name].grad[0]
            for t in where:
                sums[name][0] = sums[name][0] + torch.outer(a[t - 1], a[t - 1])
                sums[name][1] = sums[name][1] + torch.outer(d[t - 1], d[t - 1])
                sums[name][2] += 1
            sums[name][3].append(module.weight.grad.clone())
    for handle in handles:
        handle.remove()
    return {name: (a / n, g / n, torch.stack(grads)) for name, (a, g, n, grads) in sums.items()}


def test_factors_equal_brute_force(model, rows) -> None:
    factors, reference = fit(model, rows), brute_force(model, rows)
    for name, (a, g, grads) in reference.items():
        layer = factors.layers[name]
        for q, s, matrix in ((layer.q_in, layer.s_in, a), (layer.q_out, layer.s_out, g)):
            rebuilt = q.double() * s.double() @ q.double().T
            assert torch.allclose(rebuilt, matrix, rtol=1e-4, atol=1e-5 * matrix.abs().max())
        rotated = (layer.q_out.double().T @ grads @ layer.q_in.double()).square().mean(0)
        assert torch.allclose(layer.corrected.double(), rotated, rtol=1e-4, atol=1e-6 * rotated.max())
        assert torch.allclose(layer.diagonal.double(), grads.square().mean(0), rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"batch_tokens": 1}, {"batch_tokens": 100_000}, {"memory_bytes": 40_000}],
    ids=["batch of one", "one batch", "many partitions"],
)
@pytest.mark.parametrize("labels", ["sampled", "empirical"])
def test_factors_depend_on_neither_batches_nor_partitions(tokenizer, rows, change, labels) -> None:
    model = tiny_qwen2(len(tokenizer)).double()
    plain = fit_factors(model, rows, labels=labels, progress=False)
    other = fit_factors(model, rows[::-1], labels=labels, progress=False, **change)
    for name, layer in plain.layers.items():
        found = other.layers[name]
        for field in ("s_in", "s_out", "diagonal"):
            assert torch.allclose(getattr(layer, field), getattr(found, field), rtol=1e-3, atol=1e-6)
        assert layer.corrected.sum() == pytest.approx(float(found.corrected.sum()), rel=1e-4)


def test_sampled_labels_follow_the_seed(tokenizer, rows) -> None:
    model = tiny_qwen2(len(tokenizer))
    first, again, other = (fit_factors(model, rows, seed=seed, progress=False) for seed in (0, 0, 1))
    name = next(iter(first.layers))
    assert torch.equal(first.layers[name].diagonal, again.layers[name].diagonal)
    assert not torch.equal(first.layers[name].diagonal, other.layers[name].diagonal)


def test_gate_and_up_share_one_input_factor(model, rows) -> None:
    factors = fit(model, rows)
    for name, layer in factors.layers.items():
        if name.endswith("gate_proj"):
            assert layer.q_in.data_ptr() == factors.layers[name.replace("gate", "up")].q_in.data_ptr()


def test_checks_are_reported_and_small(model, rows) -> None:
    for check in fit(model, rows).checks.values():
        assert check["orthogonality"] < 1e-5
        assert check["residual"] < 1e-10


@pytest.mark.reliability(kind="fault", title="curvature fitting interrupted between partitions")
def test_partitions_are_stored_and_resumed(tokenizer, rows, tmp_path, monkeypatch, capsys) -> None:
    import infra_lib.curvature.fit as module

    model = tiny_qwen2(len(tokenizer))
    options = {"memory_bytes": 40_000, "folder": tmp_path, "progress": False}
    whole = fit_factors(model, rows, **options)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    files[-1].unlink()
    calls = []
    original = module._fit_partition
    monkeypatch.setattr(module, "_fit_partition", lambda *a: calls.append(1) or original(*a))
    again = fit_factors(model, rows, **options)
    assert len(calls) == 1
    for name, layer in whole.layers.items():
        assert torch.equal(layer.corrected, again.layers[name].corrected)
    files[0].write_bytes(files[0].read_bytes()[:100])
    fit_factors(model, rows, **options)
    assert len(calls) == 2
    assert "is torn, or changed since it was written" in capsys.readouterr().out


@pytest.mark.reliability(kind="bad input", title="curvature factors of another model")
def test_factors_of_another_model_are_refused(tokenizer, rows) -> None:
    factors = fit(tiny_qwen2(len(tokenizer)), rows)
    check_model(factors, tiny_qwen2(len(tokenizer)))
    with pytest.raises(ModelError, match="another model"):
        check_model(factors, tiny_qwen2(len(tokenizer), seed=1))


def test_model_is_left_as_it_was(tokenizer, rows) -> None:
    model = tiny_qwen2(len(tokenizer))
    fit(model, rows)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.reliability(kind="bad input", title="curvature of nothing or of too much")
def test_bad_input_is_named(model, rows) -> None:
    with pytest.raises(ParameterError, match="factor_labels"):
        fit_factors(model, rows, labels="wrong")
    with pytest.raises(ParameterError, match="at least one example"):
        fit_factors(model, [])
    with pytest.raises(ParameterError, match="for layer"):
        partitions(mlp_linears(model), 10)
    with pytest.raises(NumericalError, match="not finite"):
        eigenbasis(torch.tensor([[1.0, np.nan], [np.nan, 1.0]]), "x")
