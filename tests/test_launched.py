"""Scores that two processes make for one that started them are its own; what cannot be is named at once."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_qwen2

from infra_lib import launched, scoring
from infra_lib.distributed import launch
from infra_lib.errors import InfraError, NumericalError, ParameterError
from infra_lib.examples import read_jsonl
from infra_lib.explorer.score import score_methods
from infra_lib.models import save_model
from infra_lib.scoring import score_models, score_training_set


@pytest.fixture(scope="module")
def train(files):
    return read_jsonl(files / "train.jsonl")


@pytest.fixture(scope="module")
def targets(files):
    rows = read_jsonl(files / "target.jsonl")
    # Mathematics comes before code, which is not the order of the alphabet.
    return {name: [row for row in rows if row.domain == name] for name in ("math", "code")}


def assert_near(one, two) -> None:
    assert list(one) == list(two)
    for key, rows in one.items():
        assert [len(row) for row in rows] == [len(row) for row in two[key]]
        flat, other = np.concatenate(rows), np.concatenate(two[key])
        assert np.allclose(flat, other, rtol=1e-4, atol=1e-5 * np.abs(flat).max()), key
        assert np.abs(flat).max() > 0


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_training_set_is_scored_by_two_as_by_one(model_folder, train, targets, tmp_path, at_once) -> None:
    options = {"targets_at_once": at_once, "max_tokens": 60, "memory_bytes": 2**20, "progress": False}
    one = score_training_set(model_folder, train, targets, folder=tmp_path / "one", **options)
    two = score_training_set(model_folder, train, targets, folder=tmp_path / "two", devices=2, **options)
    assert_near(one.tokens, two.tokens)
    assert_near(one.positions, two.positions)
    assert [row.id for row in one.encoded] == [row.id for row in two.encoded]
    assert one.scores.drop(columns=["score", "rank"]).equals(two.scores.drop(columns=["score", "rank"]))
    scores, others = one.scores["score"].to_numpy(), two.scores["score"].to_numpy()
    assert np.allclose(scores, others, rtol=1e-4, atol=1e-5 * np.abs(scores).max())
    assert two.checks["positions"] == one.checks["positions"]
    assert two.checks["layers"] == one.checks["layers"]
    assert "factors" in two.seconds
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert names[0] == names[1]


def test_scores_below_float32_are_compared_with_float32(model_folder, train, targets, tmp_path) -> None:
    options = {"max_tokens": 60, "memory_bytes": 2**20, "progress": False, "dtype": torch.bfloat16}
    one = score_training_set(model_folder, train, targets, folder=tmp_path / "one", **options)
    two = score_training_set(model_folder, train, targets, folder=tmp_path / "two", devices=2, **options)
    exact = score_training_set(model_folder, train, targets, folder=tmp_path / "exact", max_tokens=60)
    for name in scoring.COSINES:
        assert 0.95 < one.checks[f"float32_{name}"] < 1
        assert two.checks[f"float32_{name}"] == pytest.approx(one.checks[f"float32_{name}"], abs=0.01)
        assert f"float32_{name}" not in exact.checks


def test_scores_that_have_little_to_do_with_float32_are_refused(
    model_folder, train, targets, tmp_path, monkeypatch
) -> None:
    low = {"cosine": 0.3, "token_cosine": 0.9, "gradient_cosine": 0.9}
    monkeypatch.setattr(scoring, "against_float32", lambda *_: {"math": low, "code": low})
    with pytest.raises(NumericalError, match=r"in bfloat16 the cosine to float32.*use precision: float32"):
        score_training_set(
            model_folder, train, targets, folder=tmp_path, max_tokens=60, dtype=torch.bfloat16, progress=False
        )


def test_without_room_for_float32_nothing_is_compared(model_folder, monkeypatch, capsys) -> None:
    there = SimpleNamespace(device=torch.device("cuda", 0), parameters=lambda: [torch.zeros(1000)])
    directions = {"math": {"layer": torch.zeros(500)}, "code": {"layer": torch.zeros(500)}}
    monkeypatch.setattr(scoring, "held_free", lambda _device: 1000)
    for free, fits in ((16_000, True), (15_000, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device, free=free: (free, 0))
        assert scoring.float32_fits(there, directions) is fits
    assert "no room for the model in float32" in capsys.readouterr().out


def test_models_side_by_side_are_scored_as_one_after_the_other(
    model_folder, tokenizer, train, targets, tmp_path
) -> None:
    """To the last bit, each with its own targets, in the order of the models."""
    other = tmp_path / "other"
    save_model(tiny_qwen2(len(tokenizer), seed=3), tokenizer, other)
    folders, own = [model_folder, other], [targets, {"code": targets["code"]}]
    options = {"max_tokens": 60, "progress": False}
    alone = score_models(folders, train, own, folder=tmp_path / "alone", processes=1, **options)
    beside = score_models(folders, train, own, folder=tmp_path / "beside", processes=2, **options)
    for one, two in zip(alone, beside, strict=True):
        assert one.scores.equals(two.scores)
        for first, second in ((one.tokens, two.tokens), (one.positions, two.positions)):
            assert list(first) == list(second)
            for name, rows in first.items():
                assert all(map(np.array_equal, rows, second[name]))
        assert one.checks == two.checks
    assert [list(result.tokens) for result in beside] == [["math", "code"], ["code"]]
    assert not np.array_equal(beside[0].tokens["code"][0], beside[1].tokens["code"][0])


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"devices": 2}])
def test_models_that_need_a_whole_device_are_scored_one_after_the_other(
    train, targets, monkeypatch, options
) -> None:
    """The plan gives the one at work all of the memory."""
    called = []
    monkeypatch.setattr(scoring, "score_training_set", lambda *given, **_: called.append(given[0]))
    monkeypatch.setattr(scoring, "run_jobs", lambda *_, **__: pytest.fail("two models at once"))
    score_models([Path("one"), Path("two")], train, [targets] * 2, processes=2, **options)
    assert called == [Path("one"), Path("two")]


def test_methods_are_scored_by_two_as_by_one(model_folder, train, targets, tmp_path) -> None:
    options = {"examples": 6, "directions_at_once": 3, "seed": 2, "progress": False}
    one = score_methods(model_folder, train, targets, factors_folder=tmp_path / "one", **options)
    two = score_methods(model_folder, train, targets, factors_folder=tmp_path / "two", devices=2, **options)
    assert [row.id for row in one.train] == [row.id for row in two.train]
    assert [row.id for row in one.encoded] == [row.id for row in two.encoded]
    assert len(two.train) == 6
    assert_near(one.loss, two.loss)
    assert_near(one.position, two.position)


def test_a_job_hands_over_every_option(model_folder, train, targets, tmp_path, monkeypatch) -> None:
    """The processes call what was called, with what it was called with."""
    told = []

    def scored(*given, **options):
        told.append((given, options))
        return {("loss", "math"): [np.ones(2, np.float32)]}, {"checks": {}, "seconds": ""}

    def started(command, **_):
        assert command[1:7] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        assert command[7] == "infra_lib.launched"
        launched.run_job(Path(command[-1]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(launch.subprocess, "run", started)
    monkeypatch.setitem(launched._WORK, launched.TRAINING_SET, scored)
    given = {"folder": tmp_path, "dtype": torch.bfloat16, "seed": 7, "max_tokens": None, "damping": 0.25}
    arrays, facts = launched.scores_on(
        2, launched.TRAINING_SET, model_folder, train, targets, device="cpu", options=given
    )
    [((model, examples, asked), options)] = told
    assert (model, examples, asked) == (str(model_folder), train, targets)
    assert list(asked) == ["math", "code"]
    assert options == {**given, "device": "cpu"}
    assert arrays[("loss", "math")][0].tolist() == [1.0, 1.0]
    assert facts == {"checks": {}, "seconds": ""}


@pytest.mark.reliability(kind="bad input", title="scores shared by more processes than can work")
@pytest.mark.parametrize(
    ("devices", "device", "message"),
    [
        (999, "cpu", "devices_per_run is 999: it must be at most the 10 training examples"),
        (2, "cuda", "devices_per_run is 2: it must be at most the 1 CUDA devices"),
        (1, "cuda:0", "device is 'cuda:0': it must be cuda without a number"),
    ],
)
def test_what_cannot_be_shared_is_named_before_anything_starts(
    model_folder, train, targets, monkeypatch, devices, device, message
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(launched, "torchrun", lambda *_: pytest.fail("started"))
    with pytest.raises(ParameterError, match=message):
        launched.scores_on(
            devices, launched.METHODS, model_folder, train[:10], targets, device=device, options={}
        )


@pytest.mark.reliability(kind="fault", title="a process fails while several share the scores")
def test_a_process_that_fails_is_said_and_nothing_is_taken_for_scores(
    model_folder, train, targets, capfd
) -> None:
    options = {"dtype": torch.float32, "labels": "no such labels", "progress": False}
    with pytest.raises(InfraError, match="torchrun with 2 processes ended with status"):
        launched.scores_on(
            2, launched.TRAINING_SET, model_folder, train, targets, device="cpu", options=options
        )
    said = capfd.readouterr().err
    assert sum(line.startswith("infra: ") for line in said.splitlines()) == 1, said
    assert "no such labels" in said
