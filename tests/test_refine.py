"""Gauss–Newton products and solvers against dense matrices in double precision."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_qwen2
from transformers import GPT2Config, GPT2LMHeadModel

from infra_lib.curvature import fit_factors
from infra_lib.errors import ModelError, NumericalError, ParameterError
from infra_lib.influence import precondition
from infra_lib.models import Encoded, mlp_linears
from infra_lib.refine import GaussNewton, System, conjugate_gradients, refine
from infra_lib.refine.solve import minibatches

DAMPING = 1.0


VOCABULARY = 13
"""Small enough that every logit's gradient can be written out."""


@pytest.fixture(scope="module")
def rows():
    """Twelve random sequences of 5 to 12 tokens, the first three without a loss term."""
    generator = np.random.default_rng(0)
    found = []
    for k in range(12):
        ids = torch.from_numpy(generator.integers(2, VOCABULARY, size=int(generator.integers(5, 13))))
        mask = torch.arange(len(ids)) >= 3
        found.append(Encoded(f"row{k:02d}", ids, mask, ((0, 0),) * int(mask.sum())))
    return found


@pytest.fixture(scope="module")
def model():
    return tiny_qwen2(VOCABULARY, hidden=8, layers=2).double()


@pytest.fixture(scope="module")
def names(model):
    return tuple(mlp_linears(model))


@pytest.fixture(scope="module")
def dense(model, names, rows):
    """Each example's Gauss–Newton matrix, from its logits' Jacobian and an explicit softmax Hessian."""
    return dense_gauss_newton(model, names, rows)


def dense_gauss_newton(model, names, rows):
    modules = dict(model.named_modules())
    weights = tuple(modules[name].weight.detach() for name in names)
    keys = [f"{name}.weight" for name in names]
    matrices = []
    for row in rows:

        def logits(*values, row=row):
            given = dict(zip(keys, values, strict=True))
            output = torch.func.functional_call(model, given, (row.input_ids[None],)).logits[0]
            return output[:-1][row.loss_mask[1:]]

        jacobian = torch.func.jacrev(logits, argnums=tuple(range(len(weights))))(*weights)
        # [terms, vocabulary, parameters], each weight's entries in its own order
        joined = torch.cat([part.flatten(2) for part in jacobian], dim=2)
        p = torch.softmax(logits(*weights), dim=-1).detach()
        hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        matrices.append(torch.einsum("tvi,tvw,twj->ij", joined, hessian, joined))
    return torch.stack(matrices).detach()


def random_stack(model, names, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    modules = dict(model.named_modules())
    return {
        n: torch.randn(count, *modules[n].weight.shape, generator=generator, dtype=torch.float64)
        for n in names
    }


def flat(stacked):
    return torch.cat([part.flatten(1) for part in stacked.values()], dim=1)


def relative(found, expected) -> float:
    return float((found - expected).norm() / expected.norm())


class Dense:
    """The same matrix written out: what the solvers are tested on, in double precision throughout."""

    def __init__(self, matrices, encoded) -> None:
        self.matrices, self.mean, self.encoded = matrices, matrices.mean(0), encoded

    def product(self, stacked, rows=None):
        given = flat(stacked)
        if rows is None or sorted(rows) == list(range(len(self.encoded))):
            found = given @ self.mean
        else:
            found = sum(given @ self.matrices[row] for row in rows) / len(rows)
        parts = found.split([part[0].numel() for part in stacked.values()], dim=1)
        return {n: part.view_as(stacked[n]) for n, part in zip(stacked, parts, strict=True)}


@pytest.fixture(scope="module")
def system(model, names, rows):
    factors = fit_factors(model, rows, seed=1, progress=False)
    right = random_stack(model, names, 2, seed=3)
    gradients = {t: {n: right[n][k] for n in names} for k, t in enumerate(("math", "code"))}
    return System(model, rows, factors, gradients, damping=DAMPING)


@pytest.fixture(scope="module")
def written(system, dense, rows):
    """The system with its matrix written out."""
    found = copy.copy(system)
    found.matrix = Dense(dense, rows)
    return found


@pytest.fixture(scope="module")
def whole(system, dense):
    """The damped matrix."""
    shift = [torch.full_like(part[0].flatten(), system.damping[n]) for n, part in system.right.items()]
    return dense.mean(0) + torch.diag(torch.cat(shift))


@pytest.fixture(scope="module")
def solution(system, whole):
    return torch.linalg.solve(whole, flat(system.right).T).T


def stacked_of(result):
    parts = result.directions.values()
    return {n: torch.stack([part[n] for part in parts]) for n in next(iter(parts))}


def solved(result):
    return flat(stacked_of(result))


# --- Products ----------------------------------------------------------------------------


def test_product_equals_the_dense_matrix(model, names, rows, dense) -> None:
    stacked = random_stack(model, names, 3)
    found = GaussNewton(model, names, rows).product(stacked)
    assert relative(flat(found), flat(stacked) @ dense.mean(0)) < 1e-6


def test_conv1d_weights_multiply_like_linear_ones(rows) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=4, n_inner=6, n_layer=1, n_head=2, n_positions=512)
    config._attn_implementation = "eager"
    model = GPT2LMHeadModel(config).eval().double()
    names = tuple(mlp_linears(model))
    stored = random_stack(model, names, 1)
    found = GaussNewton(model, names, rows[:3]).product({n: part.mT for n, part in stored.items()})
    expected = flat(stored) @ dense_gauss_newton(model, names, rows[:3]).mean(0)
    assert relative(flat({n: part.mT for n, part in found.items()}), expected) < 1e-6


def test_matrix_is_symmetric_and_positive_semidefinite(model, names, rows) -> None:
    stacked = random_stack(model, names, 4, seed=5)
    inner = flat(stacked) @ flat(GaussNewton(model, names, rows).product(stacked)).T
    assert torch.allclose(inner, inner.T, rtol=1e-5)
    assert torch.linalg.eigvalsh(inner).min() > 0


def test_products_with_parts_of_the_data_average_to_the_whole(model, names, rows) -> None:
    stacked, matrix = random_stack(model, names, 1), GaussNewton(model, names, rows)
    parts = [flat(matrix.product(stacked, part)) for part in ([0, 3, 8], [1, 2, 11], [7, 4, 10], [6, 5, 9])]
    assert relative(sum(parts) / 4, flat(matrix.product(stacked))) < 1e-6


@pytest.mark.parametrize("batch_tokens", [1, 100_000], ids=["batch of one", "one batch"])
def test_products_depend_on_neither_batch_nor_order(model, names, rows, batch_tokens) -> None:
    stacked = random_stack(model, names, 1)
    plain = flat(GaussNewton(model, names, rows).product(stacked))
    other = GaussNewton(model, names, rows[::-1], batch_tokens=batch_tokens).product(stacked)
    assert relative(flat(other), plain) < 1e-6


def test_a_direction_multiplied_alone_comes_out_as_in_company(model, names, rows) -> None:
    stacked, matrix = random_stack(model, names, 3), GaussNewton(model, names, rows[:3])
    alone = matrix.product({n: part[1:2] for n, part in stacked.items()})
    assert relative(flat(alone), flat(matrix.product(stacked))[1:2]) < 1e-6


def test_factors_and_products_have_one_scale(model, names, rows, dense) -> None:
    """The mean of Λ estimates the mean of the matrix's diagonal, layer by layer, from sampled labels."""
    estimates = [fit_factors(model, rows, seed=s, progress=False) for s in range(24)]
    at = 0
    for name in names:
        found = np.mean([float(f.layers[name].corrected.sum()) for f in estimates])
        size = estimates[0].layers[name].corrected.numel()
        assert found == pytest.approx(float(dense.mean(0).diagonal()[at : at + size].sum()), rel=0.15)
        at += size


# --- Solvers -----------------------------------------------------------------------------


def test_start_is_the_ekfac_direction_of_each_target(system) -> None:
    for k, target in enumerate(system.targets):
        alone = precondition(system._factors, {n: p[k] for n, p in system.right.items()}, damping=DAMPING)
        for name, part in system.split(system.start)[target].items():
            assert torch.allclose(part, alone[name], rtol=1e-9)


def test_conjugate_gradients_reach_the_dense_solution(written, solution) -> None:
    result = conjugate_gradients(written, iterations=400, tolerance=1e-10, progress=False)
    assert relative(solved(result), solution) < 1e-6
    true = written.relative(written.residual(stacked_of(result)))
    for kind, values in zip(("residual", "natural"), true, strict=True):
        for target, value in zip(written.targets, values, strict=True):
            # The residual that is carried along is the true one.
            assert result.residuals(kind)[target]["refined"] == pytest.approx(value, abs=1e-8)
            assert value <= 1e-9 < result.residuals(kind)[target]["ekfac_rescaled"]


def test_each_step_of_conjugate_gradients_gains_up_to_the_targets_influence_on_itself(
    written, whole, solution
) -> None:
    record = conjugate_gradients(written, iterations=400, tolerance=1e-10, progress=False).record
    right, start = flat(written.right), flat(written.start)
    for k, target in enumerate(written.targets):
        gains = record[record["target"] == target].sort_values("iteration")["gain"]
        assert np.diff(gains).min() > -1e-9
        first = float((right[k] @ start[k]) ** 2 / (start[k] @ whole @ start[k]))
        assert gains.iloc[-1] == pytest.approx(float(right[k] @ solution[k]) / first)


@pytest.mark.parametrize("solver", [conjugate_gradients, refine])
def test_solvers_take_the_same_steps_as_with_the_written_matrix(system, written, solver) -> None:
    found, expected = (solver(s, iterations=5, progress=False) for s in (system, written))
    assert relative(solved(found), solved(expected)) < 1e-4
    assert np.allclose(found.record["residual"], expected.record["residual"], rtol=1e-4)


def test_stochastic_iterations_approach_the_dense_solution_and_beat_ekfac(written, solution) -> None:
    scales = refine(written, iterations=1, progress=False).scale.values()
    rescaled = flat(written.start) * torch.tensor(list(scales))[:, None]
    start = min(relative(flat(written.start), solution), relative(rescaled, solution))
    errors = [
        relative(solved(refine(written, iterations=n, batch_examples=4, progress=False)), solution)
        for n in (20, 100, 500)
    ]
    assert errors[2] < errors[1] < errors[0] < start
    assert errors[2] < 0.25 * start


def test_full_batches_without_noise_converge_all_the_way(written, solution) -> None:
    options = {"batch_examples": 12, "average": 0, "checks": 20, "progress": False}
    result = refine(written, iterations=1200, **options)
    assert relative(solved(result), solution) < 0.01
    assert result.record.groupby("iteration")["natural"].max().is_monotonic_decreasing


def test_averaging_takes_out_the_minibatches_noise(written) -> None:
    options = {"iterations": 400, "batch_examples": 2, "checks": 1, "progress": False}
    last, averaged = (refine(written, average=a, **options).residuals() for a in (0, 0.5))
    assert all(averaged[target]["refined"] < last[target]["refined"] for target in last)


def test_one_step_of_size_one_from_zero_is_ekfac(system) -> None:
    zero = {n: torch.zeros_like(part) for n, part in system.right.items()}
    step = system.preconditioned(system.residual(zero, [0, 1]))
    assert relative(flat(step), flat(system.start)) < 1e-9


def test_refinement_depends_on_the_seed_and_not_on_the_order(system, model, rows) -> None:
    options = {"iterations": 4, "batch_examples": 3, "checks": 1, "step": 0.01, "progress": False}
    gradients = system.split(system.right)
    turned = System(model, rows[::-1], system._factors, gradients, damping=DAMPING)
    first, again = (solved(refine(s, **options)) for s in (system, turned))
    other = solved(refine(system, seed=1, **options))
    assert relative(again, first) < 1e-5
    assert relative(other, first) > 1e-4


def test_each_pass_of_minibatches_takes_every_example_once(rows) -> None:
    drawn = minibatches(rows, 4, seed=0)
    taken = [row for _ in range(9) for row in next(drawn)]
    assert [sorted(taken[k : k + 12]) for k in (0, 12, 24)] == [list(range(12))] * 3


def test_record_starts_at_ekfac_rescaled_as_well_as_can_be(written, whole) -> None:
    result = refine(written, iterations=4, batch_examples=4, checks=2, progress=False)
    assert sorted(result.record["iteration"].unique()) == [0, 2, 4]
    assert result.step > 0
    unscaled = written.relative(written.residual(written.start))
    for k, target in enumerate(written.targets):
        assert result.unscaled[target] == pytest.approx((unscaled[0][k], unscaled[1][k]))
        start, right = flat(written.start)[k], flat(written.right)[k]

        def energy(scale, start=start, right=right):
            return float(scale**2 * start @ whole @ start / 2 - scale * right @ start)

        best = result.scale[target]
        assert energy(best) < min(energy(0.99 * best), energy(1.01 * best))
        residual = float((right - best * (whole @ start)).norm() / right.norm())
        rows = result.record[(result.record["target"] == target) & (result.record["iteration"] == 0)]
        assert rows["residual"].item() == pytest.approx(residual)
        assert result.residuals()[target]["ekfac_rescaled"] == pytest.approx(residual)


def test_both_solvers_start_in_the_same_place(written) -> None:
    starts = [
        solver(written, iterations=1, progress=False).record.query("iteration == 0")["residual"].tolist()
        for solver in (refine, conjugate_gradients)
    ]
    assert starts[0] == starts[1]


@pytest.mark.reliability(kind="bad input", title="a refinement with settings that cannot be")
def test_bad_input_is_named(system, written, model, names, rows) -> None:
    gradients = system.split(system.right)
    for name, value in (
        ("iterations", 0),
        ("batch_examples", 0),
        ("step", -1.0),
        ("step", float("nan")),
        ("average", 1.5),
        ("checks", 0),
        ("tolerance", 0.0),
        ("seed", -1),
    ):
        with pytest.raises(ParameterError, match=name):
            refine(system, **{name: value}, progress=False)
    with pytest.raises(ParameterError, match="iterations"):
        conjugate_gradients(system, iterations=0)
    with pytest.raises(ParameterError, match="damping"):
        System(model, rows, system._factors, gradients, damping=0)
    with pytest.raises(ParameterError, match="target"):
        System(model, rows, system._factors, {})
    with pytest.raises(ParameterError, match="train"):
        GaussNewton(model, names, [])
    with pytest.raises(ModelError, match="no layer other"):
        GaussNewton(model, ("other",), rows)
    with pytest.raises(ModelError, match="another model"):
        System(model, rows, replace(system._factors, fingerprint="other"), gradients)
    with pytest.raises(NumericalError, match="smaller step"):
        refine(written, iterations=60, batch_examples=2, step=1e4, progress=False)
