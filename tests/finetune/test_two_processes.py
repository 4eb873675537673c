"""Two processes train the model that one trains, replicated and sharded, and resume as one does."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from infra_lib.errors import InfraError
from infra_lib.examples import write_jsonl
from infra_lib.finetune import FinetuneConfig, finetune, launch

# 40 examples in batches of 6 leave a step of 4, and three examples a part do not divide among the parts.
CONFIG = FinetuneConfig(epochs=2, batch_size=6, learning_rate=1e-2, gradient_accumulation=2)
WEIGHTS = [0.5 + i / 20 for i in range(40)]


@pytest.fixture(scope="module")
def two(model_folder, splits, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    job = {
        "base": str(model_folder),
        "config": dataclasses.asdict(CONFIG),
        "seed": 0,
        "folder": str(folder / "replicated"),
        "weights": WEIGHTS,
        "device": "cpu",
        "progress": False,
    }
    (folder / "job.json").write_text(json.dumps(job))
    write_jsonl(folder / "train.jsonl", splits.train)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).with_name("two_processes.py")), str(folder)]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def one(model_folder, splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")

    def run(name: str, **change) -> dict[str, torch.Tensor]:
        config = dataclasses.replace(CONFIG, **change)
        options = {"seed": 0, "weights": WEIGHTS, "progress": False}
        finetune(model_folder, splits.train, config, folder=folder / name, **options)
        return load_file(folder / name / "model.safetensors")

    return run


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], start: Path) -> None:
    before = load_file(start / "model.safetensors")
    moved = max(float((left[name] - before[name]).abs().max()) for name in left)
    apart = max(float((left[name] - right[name]).abs().max()) for name in left)
    assert left.keys() == right.keys()
    assert moved > 0.02
    assert apart < 1e-4 * moved


def test_replicated_training_is_that_of_one_process(one, two, model_folder) -> None:
    assert_same(one("plain"), load_file(two / "replicated" / "model.safetensors"), model_folder)
    record = json.loads((two / "replicated" / "run.json").read_text())
    assert (record["processes"], record["steps"], record["sharded"]) == (2, 14, False)


def test_sharded_packed_checkpointed_and_interrupted_training_is_that_of_one_process(
    one, two, model_folder
) -> None:
    assert_same(one("plain"), load_file(two / "sharded" / "model.safetensors"), model_folder)
    record = json.loads((two / "sharded" / "run.json").read_text())
    assert (record["processes"], record["steps"], record["sharded"]) == (2, 14, True)
    assert not list(two.glob("*.part"))


def test_sharded_adapters_are_those_of_one_process(one, two, model_folder) -> None:
    assert_same(one("lora", lora_rank=4), load_file(two / "lora" / "model.safetensors"), model_folder)


def test_one_and_two_processes_log_the_same_loss(one, two) -> None:
    one("plain")  # there already
    logs = [
        json.loads((folder / "run.json").read_text())["loss_curve"]
        for folder in (two / "replicated", two / "sharded")
    ]
    single = json.loads((next(two.parent.glob("one*")) / "plain" / "run.json").read_text())["loss_curve"]
    for curve in logs:
        assert [step for step, _ in curve] == [step for step, _ in single]
        assert [loss for _, loss in curve] == pytest.approx([loss for _, loss in single], rel=1e-3)


def test_a_launch_hands_over_the_whole_job(one, model_folder, splits, tmp_path, monkeypatch) -> None:
    def started(command, **_):
        assert command[1:7] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        launch.run_job(Path(command[-1]))
        return subprocess.CompletedProcess(command, 0)

    with monkeypatch.context() as patch:
        patch.setattr(launch.subprocess, "run", started)
        config, folder = dataclasses.replace(CONFIG, epochs=1), tmp_path / "a"
        options = {"seed": 0, "weights": WEIGHTS, "progress": False}
        launch.finetune_on(2, model_folder, splits.train, config, folder=folder, **options)
        patch.setattr(launch.subprocess, "run", lambda *_, **__: pytest.fail("trained again"))
        launch.finetune_on(2, model_folder, splits.train, config, folder=folder, **options)
    assert_same(one("short", epochs=1), load_file(folder / "model.safetensors"), model_folder)


def test_a_failed_launch_says_so_and_leaves_no_model(model_folder, tmp_path, splits, monkeypatch) -> None:
    monkeypatch.setattr(launch.sys, "executable", "/bin/false")
    with pytest.raises(InfraError, match="torchrun with 2 processes"):
        launch.finetune_on(2, model_folder, splits.train[:8], CONFIG, seed=0, folder=tmp_path / "a")
    assert not (tmp_path / "a").exists()
