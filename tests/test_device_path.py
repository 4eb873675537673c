"""What a GPU is given to do, on a simulated one: the CPU's numbers, and no waiting from batch to batch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from simulated_gpu import OnGpu, simulated_gpu, to_simulated_gpu

from infra_lib import device, pipeline, provenance
from infra_lib.baselines import gradient_norms, losses
from infra_lib.curvature import fit_factors
from infra_lib.device import read_back
from infra_lib.errors import ParameterError
from infra_lib.influence import position_scores, precondition_all, target_gradient, token_scores
from infra_lib.jobs import _with_peak
from infra_lib.method.sweeps import scores_along
from infra_lib.models import Encoded
from infra_lib.pretrain import PretrainConfig, pretrain
from infra_lib.refine import GaussNewton
from infra_lib.study import Study
from infra_lib.validation.gradients import gradient_scores
from infra_lib.validation.retraining import log_probs

OPTIONS = {"batch_tokens": 24}


@pytest.fixture
def gpu(monkeypatch):
    with simulated_gpu(monkeypatch) as found:
        yield found


@pytest.fixture(scope="module")
def model(model_folder):
    from infra_lib.models import load_model

    return load_model(model_folder)


def rows(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i, length in enumerate(lengths):
        mask = torch.ones(length, dtype=torch.bool)
        mask[:3] = False
        ids = torch.randint(1, 30, (length,), generator=generator)
        found.append(Encoded(f"{seed}-{i}", ids, mask, tuple((k, k + 1) for k in range(length - 3))))
    return found


PADDED = rows([5, 8, 6, 7, 12, 11, 9, 10])
EVEN = rows([8] * 9)
TARGETS = {"math": rows([7, 9], seed=1), "code": rows([6, 6, 8], seed=2)}


@pytest.fixture(scope="module")
def curvature(model):
    factors = fit_factors(model, PADDED, progress=False)
    names = list(factors.layers)
    gradients = {name: target_gradient(model, names, own) for name, own in TARGETS.items()}
    return factors, precondition_all(factors, gradients)


def scores(model, train, factors, directions):
    return token_scores(model, train, directions, progress=False, **OPTIONS)


def positions(model, train, factors, directions):
    return position_scores(model, train, directions, progress=False, **OPTIONS)


def gradient(model, train, factors, directions):
    return target_gradient(model, list(factors.layers), train, **OPTIONS)


def means(model, train, factors, directions):
    return target_gradient(model, list(factors.layers), train, per_token=True, **OPTIONS)


def factors_themselves(model, train, factors, directions):
    found = fit_factors(model, train, progress=False, memory_bytes=2**20, **OPTIONS)
    # Of an eigenbasis the signs are free; A, G and Λ are not.
    return {
        f"{name}-{what}": value
        for name, layer in found.layers.items()
        for what, value in {
            "in": layer.q_in * layer.s_in @ layer.q_in.T,
            "out": layer.q_out * layer.s_out @ layer.q_out.T,
            "squares": layer.corrected.flatten().sort().values,
        }.items()
    }


def factors_again(model, train, factors, directions):
    """Fit with room for one layer and no rows kept, so that every pass runs the model."""
    found = fit_factors(model, train, progress=False, memory_bytes=12_000, **OPTIONS)
    return {name: layer.corrected.flatten().sort().values for name, layer in found.layers.items()}


def norms(model, train, factors, directions):
    return {"": gradient_norms(model, train, list(factors.layers), **OPTIONS)}


def self_influence(model, train, factors, directions):
    return {"": gradient_norms(model, train, list(factors.layers), factors=factors, **OPTIONS)}


def self_influence_in_passes(model, train, factors, directions):
    names = list(factors.layers)
    return {"": gradient_norms(model, train, names, factors=factors, memory_bytes=12_000, **OPTIONS)}


def loss(model, train, factors, directions):
    return {"": losses(model, train, **OPTIONS)}


def outputs(model, train, factors, directions):
    return {"": np.concatenate(log_probs(model, train, **OPTIONS))}


def sweep(model, train, factors, directions):
    keyed = {("ekfac", 0.1, name): part for name, part in directions.items()}
    found, norms = scores_along(model, train, keyed, **OPTIONS)
    return {**{key[2]: values for key, values in found.items()}, "norms": norms}


def tables(model, train, factors, directions):
    return gradient_scores(model, train, TARGETS["math"], factors, [0.1], methods=["ekfac"], **OPTIONS)


def curved(model, train, factors, directions):
    matrix = GaussNewton(model, tuple(factors.layers), train, **OPTIONS)
    stacked = {n: torch.stack([part[n] for part in directions.values()]) for n in factors.layers}
    return matrix.product(stacked)


STEPS = [
    scores, positions, gradient, means, factors_themselves, factors_again, norms, self_influence,
    self_influence_in_passes, loss, outputs, sweep, tables, curved,
]  # fmt: skip


def numbers(found):
    flat = {}
    for name, part in found.items():
        if isinstance(part, list):
            part = np.concatenate(part)
        part = part.inner if isinstance(part, OnGpu) else part
        flat[name] = part.numpy() if isinstance(part, torch.Tensor) else part
    return flat


def there(directions):
    return {t: {n: OnGpu(part.clone()) for n, part in own.items()} for t, own in directions.items()}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
@pytest.mark.parametrize("train", [PADDED, EVEN], ids=["padded", "even"])
def test_the_gpus_path_gives_the_cpus_numbers(step, train, model, curvature, monkeypatch) -> None:
    factors, directions = curvature
    expected = numbers(step(model, train, factors, directions))
    with simulated_gpu(monkeypatch):
        moved = to_simulated_gpu(copy.deepcopy(model))
        found = numbers(step(moved, train, factors, there(directions)))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.allclose(found[name], values, rtol=1e-4, atol=1e-5 * np.abs(values).max())


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
@pytest.mark.parametrize("train", [PADDED, EVEN], ids=["padded", "even"])
def test_the_host_waits_no_more_for_more_batches(step, train, model, curvature, gpu) -> None:
    factors, directions = curvature
    moved, directions = to_simulated_gpu(copy.deepcopy(model)), there(directions)
    waits = []
    for part in (train[: len(train) // 2], train):
        gpu.waits.clear()
        step(moved, part, factors, directions)
        waits.append(gpu.waits.copy())
    assert waits[0] == waits[1]


def test_the_simulation_sees_what_waits_and_what_would_fail(gpu) -> None:
    on_gpu = torch.arange(4.0).to("cuda:0", non_blocking=True)
    assert not gpu.waits
    assert float(on_gpu.sum()) == 6
    assert on_gpu.cpu().tolist() == on_gpu.tolist() == [0, 1, 2, 3]
    assert on_gpu[on_gpu > 1].shape == (2,)
    torch.ones(3).to("cuda:0")
    assert {name for name, _ in gpu.waits} == {
        "_local_scalar_dense", "_to_copy", "tolist", "index", "_to_copy from pageable memory",
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="same device"):
        _ = on_gpu + torch.ones(4)


def test_results_come_back_in_order_and_behind_the_device(gpu) -> None:
    computed = []

    def compute():
        for number in range(5):
            computed.append(number)
            yield torch.full((2,), float(number)).to("cuda:0", non_blocking=True), number

    ahead = []
    for values, number in read_back(compute()):
        assert values.tolist() == [number, number]
        ahead.append(len(computed) - number)
    assert ahead == [3, 3, 3, 2, 1]
    assert not gpu.waits


# --- Where there is no GPU ---------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.reliability(kind="bad input", title="a study on a GPU where there is none")
def test_a_study_on_a_gpu_that_is_not_there_stops_before_it_starts(root, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(pipeline, "why_stale", lambda *_: ["it has not run"])
    study = Study(device="cuda", sandbox="process")
    for stage in ("02_base_model", "06_summary"):
        with pytest.raises(ParameterError, match=r"device is 'cuda'.*no CUDA device"):
            pipeline.check_machine(root, study, [stage])
    pipeline.check_machine(root, study, ["01_data"])
    with pytest.raises(ParameterError, match="no CUDA device"):
        pretrain(PretrainConfig(), 0, tmp_path / "base", device="cuda")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(pipeline, "why_stale", lambda *_: [])
    pipeline.check_machine(root, study, ["02_base_model"])  # what is there already needs no GPU
    with pytest.raises(ParameterError, match="no CUDA device"):
        pipeline.check_machine(root, study, ["02_base_model"], force=True)


def test_a_gpu_of_a_number_that_is_not_there_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    device.check_device("cuda:1")
    with pytest.raises(ParameterError, match="cuda:0 to cuda:1 on this machine"):
        device.check_device("cuda:2")


def test_the_largest_worker_on_a_gpu_counts_in_a_stages_peak(monkeypatch) -> None:
    monkeypatch.setattr(device, "_noted", 0)
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "max_memory_allocated", lambda: 100)
    assert device.peak_bytes()["device"] == 100
    result, peak = _with_peak(len, "job")
    assert (result, peak) == (3, 100)
    for held in (300, 200):
        device.note_device_peak(held)
    assert device.peak_bytes()["device"] == 300


def test_the_driver_is_recorded_of_a_gpu_alone(monkeypatch, tmp_path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 580.1\necho 580.1\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.environment("cuda")["driver"] == "580.1"
    assert "driver" not in provenance.environment("cpu")
    program.unlink()
    assert provenance.driver() == "none"
