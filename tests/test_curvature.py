"""EK-FAC factors against brute force in double precision, and the invariances that they must hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_qwen2
from safetensors import safe_open
from scipy.stats import chisquare

from infra_lib.curvature import eigenbasis, fit_factors, partitions, watched
from infra_lib.curvature.labels import LabelSource
from infra_lib.curvature.moments import STRIP, add_outer, add_squares, mirror
from infra_lib.errors import DataError, ModelError, NumericalError, ParameterError
from infra_lib.influence import check_model, precondition, target_gradient
from infra_lib.models import Encoded, batches, encode, mlp_linears
from infra_lib.responses import token_log_probs


@pytest.fixture(scope="module")
def rows(tokenizer, splits):
    return [encode(tokenizer, example, end_token=True) for example in splits.train[::3]]


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_qwen2(len(tokenizer)).double()


def fit(model, rows, **options):
    return fit_factors(model, rows, labels="empirical", diagonal=True, progress=False, **options)


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
    [{"batch_tokens": 1}, {"batch_tokens": 100_000}, {"memory_bytes": 12_000}, {"memory_bytes": 10**9}],
    ids=["batch of one", "one batch", "many partitions", "rows kept"],
)
@pytest.mark.parametrize("labels", ["sampled", "empirical"])
def test_factors_depend_on_neither_batches_nor_partitions(tokenizer, rows, change, labels) -> None:
    model = tiny_qwen2(len(tokenizer)).double()
    options = {"labels": labels, "diagonal": True, "progress": False}
    plain = fit_factors(model, rows, memory_bytes=45_000, **options)
    other = fit_factors(model, rows[::-1], **(options | change))
    for name, layer in plain.layers.items():
        found = other.layers[name]
        for field in ("s_in", "s_out", "diagonal"):
            assert torch.allclose(getattr(layer, field), getattr(found, field), rtol=1e-4, atol=1e-6)
        assert layer.corrected.sum() == pytest.approx(float(found.corrected.sum()), rel=1e-4)
    # Equal eigenvalues leave their basis open, and near ones a part of it: float32's rounding over a gap of
    # .0015 of the largest turns eigenvectors by some 1e-5, differently on each processor. What EK-FAC makes
    # of a gradient hardly depends on it: it is compared as a whole, to the 1e-4 that the README promises.
    gradient = target_gradient(model, list(plain.layers), rows[:4])
    ours, others = (precondition(factors, gradient, damping=0.3) for factors in (plain, other))
    for name, direction in ours.items():
        assert (direction - others[name]).norm() < 1e-4 * direction.norm()


def test_sampled_labels_follow_the_seed(tokenizer, rows) -> None:
    model = tiny_qwen2(len(tokenizer))
    first, again, other = (
        fit_factors(model, rows, seed=seed, diagonal=True, progress=False) for seed in (0, 0, 1)
    )
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
        assert check["residual"] < 1e-5


@pytest.mark.reliability(kind="fault", title="curvature fitting interrupted between partitions")
def test_partitions_are_stored_and_resumed(tokenizer, rows, tmp_path, monkeypatch, capsys) -> None:
    import infra_lib.curvature.fit as module

    model = tiny_qwen2(len(tokenizer))
    options = {"memory_bytes": 12_000, "folder": tmp_path, "progress": False}
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
    with pytest.raises(DataError, match="torn factor file"):
        fit_factors(model, rows, **options)
    mended = fit_factors(model, rows, replace_torn=True, **options)
    assert f"{files[0]} is a torn factor file" in capsys.readouterr().out
    assert len(calls) == 2
    for name, layer in whole.layers.items():
        assert torch.equal(layer.corrected, mended.layers[name].corrected)


@pytest.mark.reliability(kind="fault", title="curvature fitting killed between a partition and its checksum")
@pytest.mark.parametrize("stale", [False, True], ids=["first", "over a torn one"])
def test_a_partition_without_its_checksum_is_fitted_again(
    tokenizer, rows, tmp_path, monkeypatch, record_property, stale
) -> None:
    import infra_lib.curvature.fit as fitting
    import infra_lib.curvature.store as store

    model = tiny_qwen2(len(tokenizer))
    options = {"memory_bytes": 12_000, "folder": tmp_path, "progress": False}
    whole = fit_factors(model, rows, **options)
    files = sorted(tmp_path.glob("*.safetensors"))
    if stale:
        files[-1].write_bytes(files[-1].read_bytes()[:100])
    else:
        files[-1].unlink()

    def killed(_path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store, "write_checksum", killed)
        with pytest.raises(KeyboardInterrupt):
            fit_factors(model, rows, replace_torn=True, **options)
    assert files[-1].is_file()
    calls = []
    original = fitting._fit_partition
    monkeypatch.setattr(fitting, "_fit_partition", lambda *a: calls.append(1) or original(*a))
    again = fit_factors(model, rows, **options)
    record_property("outcome", "the partition is fitted again, the others are kept")
    assert len(calls) == 1
    for name, layer in whole.layers.items():
        assert torch.equal(layer.corrected, again.layers[name].corrected)


def test_stored_layers_are_read_when_asked_for_and_share_what_they_share(tokenizer, rows, tmp_path) -> None:
    model = tiny_qwen2(len(tokenizer))
    plain = fit_factors(model, rows, progress=False)
    stored = fit_factors(model, rows, folder=tmp_path, progress=False)
    assert list(stored.layers) == list(plain.layers)
    for name, layer in stored.layers.items():
        assert torch.equal(layer.q_in, plain.layers[name].q_in)
        assert torch.equal(layer.corrected, plain.layers[name].corrected)
        assert layer.diagonal is None
    with safe_open(next(tmp_path.glob("*.safetensors")), framework="pt") as file:
        names = set(file.keys())
    assert any("gate_proj|q_in" in name for name in names)
    assert not any("up_proj|q_in" in name for name in names)
    with pytest.raises(ParameterError, match="diagonal=True"):
        stored.eigenvalues(next(iter(stored.layers)), "diagonal")


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
def test_factors_depend_on_neither_padding_side_nor_threads(tokenizer, rows, monkeypatch, labels) -> None:
    import infra_lib.curvature.fit as module

    model = tiny_qwen2(len(tokenizer))  # transformers' masks give NaN for left padding in double precision
    options = {"labels": labels, "diagonal": True, "progress": False}
    plain = fit_factors(model, rows, **options)
    original, threads = module.batches, torch.get_num_threads()
    monkeypatch.setattr(module, "batches", lambda *a, **k: original(*a, padding_side="left", sort=False, **k))
    torch.set_num_threads(2)
    try:
        other = fit_factors(model, rows, **options)
    finally:
        torch.set_num_threads(threads)
    for name, layer in plain.layers.items():
        found = other.layers[name]
        for field in ("s_in", "s_out", "diagonal"):
            expected = getattr(layer, field)
            assert torch.allclose(getattr(found, field), expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_second_moments_are_the_same_whichever_side_is_rotated_first() -> None:
    generator = torch.Generator().manual_seed(0)
    grads, acts = (torch.randn(9, width, generator=generator) for width in (5, 7))
    q_out, q_in = (torch.linalg.qr(torch.randn(d, d, generator=generator))[0] for d in (5, 7))
    expected = sum((q_out.T @ grads[a:b].T @ acts[a:b] @ q_in).square() for a, b in ((0, 4), (4, 5), (5, 9)))
    for left, right in ((True, True), (True, False), (False, True), (False, False)):
        total = torch.zeros(5, 7)
        add_squares(
            total,
            grads @ q_out if left else grads,
            acts @ q_in if right else acts,
            (4, 1, 4),
            None if left else q_out,
            None if right else q_in,
        )
        assert torch.allclose(total, expected, rtol=1e-4, atol=1e-5)


def test_long_and_short_examples_rotate_different_sides_to_the_same_factors(tokenizer, rows) -> None:
    """A wide model has fewer rows an example than columns: rows are rotated, and brute force agrees."""
    model = tiny_qwen2(len(tokenizer), hidden=192).double()
    few = [row for row in rows if len(row.input_ids) < 190][:4]
    factors, reference = fit(model, few), brute_force(model, few)
    for name, (_, _, grads) in reference.items():
        layer = factors.layers[name]
        rotated = (layer.q_out.double().T @ grads @ layer.q_in.double()).square().mean(0)
        assert torch.allclose(layer.corrected.double(), rotated, rtol=1e-4, atol=1e-6 * rotated.max())


def test_outer_products_fill_a_symmetric_matrix_across_strips() -> None:
    rows_nd = torch.randn(40, STRIP + 30, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(STRIP + 30, STRIP + 30)
    add_outer(total, rows_nd[:25])
    add_outer(total, rows_nd[25:])
    assert torch.allclose(mirror(total), rows_nd.T @ rows_nd, rtol=1e-4, atol=1e-4)


def test_no_gradient_flows_below_the_first_layer_that_needs_one(tokenizer, rows) -> None:
    model = tiny_qwen2(len(tokenizer), layers=3)
    modules = {n: m for n, m in mlp_linears(model).items() if ".2." in n}
    below = []
    handle = model.model.layers[1].register_forward_hook(
        lambda _m, _i, output: below.append(torch.is_tensor(output) and output.requires_grad)
    )
    batch = batches(rows[:2], batch_tokens=10**6, pad_id=0)[0]
    with watched(model, modules, lambda *_: None, lambda *_: None):
        token_log_probs(model, batch).sum().backward()
    handle.remove()
    assert below == [False]


def test_double_precision_is_the_way_out_where_single_is_not_good_enough(monkeypatch) -> None:
    import infra_lib.curvature.eigen as module

    matrix = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    matrix = matrix.T @ matrix
    assert eigenbasis(matrix, "x")[2]["residual"] > 1e-12
    monkeypatch.setattr(module, "RESIDUAL", 0.0)
    values, vectors, check = eigenbasis(matrix, "x")
    assert check["residual"] < 1e-12
    assert torch.allclose(vectors * values @ vectors.T, matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.reliability(kind="bad input", title="curvature factors of another model")
def test_factors_of_another_model_are_refused(tokenizer, rows) -> None:
    factors = fit(tiny_qwen2(len(tokenizer)), rows)
    check_model(factors, tiny_qwen2(len(tokenizer)))
    with pytest.raises(ModelError, match="another model"):
        check_model(factors, tiny_qwen2(len(tokenizer), seed=1))


@pytest.mark.reliability(kind="bad input", title="factors of a model that differs outside the layers")
def test_factors_are_of_all_weights_and_not_of_their_layers_alone(tokenizer, rows, tmp_path) -> None:
    """A layer's inputs depend on every other: factors of a model with other attention are not its own."""
    kept = fit(tiny_qwen2(len(tokenizer)), rows, folder=tmp_path)
    tuned = tiny_qwen2(len(tokenizer))
    with torch.no_grad():
        tuned.model.layers[0].self_attn.v_proj.weight.mul_(3)
    with pytest.raises(ModelError, match="another model"):
        check_model(kept, tuned)
    stored, fresh = fit(tuned, rows, folder=tmp_path), fit(tuned, rows)
    for name, layer in fresh.layers.items():
        assert torch.equal(stored.layers[name].corrected, layer.corrected)
        assert not torch.equal(stored.layers[name].corrected, kept.layers[name].corrected)


def test_sampled_labels_follow_the_models_probabilities() -> None:
    """The true Fisher takes labels from the model: their counts are those of its distribution."""
    probs = torch.softmax(torch.randn(12, generator=torch.Generator().manual_seed(0)), -1)
    draws = 20_000
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = LabelSource._sample(probs.expand(draws, -1), uniform)
    counts = np.bincount(labels.numpy(), minlength=12)
    assert chisquare(counts, draws * probs.double().numpy() / probs.double().sum().item()).pvalue > 0.01


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


def test_kfac_is_the_fisher_where_gradients_do_not_depend_on_inputs() -> None:
    """Its eigenvalues have the scale of EK-FAC's: a mean over examples of sums over positions, of any number.

    Without the last norm, and with a head so small that every label is as likely, the gradient at the last
    layer's output is Wᵀ(p − y): independent of the input and between positions. What KFAC supposes holds,
    and the Fisher is known without it: mean over examples of Σ a aᵀ, times the covariance of Wᵀ(p − y).
    """
    vocabulary, generator = 20, torch.Generator().manual_seed(0)
    model = tiny_qwen2(vocabulary).double()
    model.model.norm = torch.nn.Identity()
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-6)
    rows = []
    for number in range(600):
        count = 2 + number % 11
        ids = torch.randint(vocabulary, (count + 1,), generator=generator)
        mask = torch.ones(count + 1, dtype=torch.bool)
        mask[0] = False
        rows.append(Encoded(str(number), ids, mask, ((0, 0),) * count))
    (name,) = [name for name in mlp_linears(model) if name.endswith("layers.1.mlp.down_proj")]
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _m, args: seen.append(args[0][0, :-1])
    )
    with torch.no_grad():
        for row in rows:
            model(row.input_ids[None])
    handle.remove()
    moment = sum(a.T @ a for a in seen) / len(rows)
    head = model.lm_head.weight.detach()
    covariance = head.T @ (torch.eye(vocabulary) / vocabulary - 1 / vocabulary**2).double() @ head
    factors = fit_factors(model, rows, pattern=r"layers\.1\.mlp\.down_proj", progress=False)
    layer = factors.layers[name]
    values = factors.eigenvalues(name, "kfac").double()
    basis = torch.kron(layer.q_out.double(), layer.q_in.double())
    rebuilt = basis @ torch.diag(values.flatten()) @ basis.T
    fisher = torch.kron(covariance, moment)
    assert (rebuilt - fisher).norm() < 0.1 * fisher.norm()
    for method in ("kfac", "ekfac"):
        assert float(factors.eigenvalues(name, method).sum()) == pytest.approx(float(fisher.trace()), rel=0.1)
