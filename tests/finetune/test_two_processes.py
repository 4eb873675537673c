"""Two processes train the model that one trains, replicated and sharded, and resume as one does."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from infra_lib.distributed import launch as starting
from infra_lib.errors import InfraError
from infra_lib.examples import write_jsonl
from infra_lib.finetune import FinetuneConfig, finetune, launch

# 40 examples in batches of 6 leave a step of 4, and three examples a part do not divide among the parts.
CONFIG = FinetuneConfig(epochs=2, batch_size=6, learning_rate=1e-2, gradient_accumulation=2)
WEIGHTS = [0.5 + i / 20 for i in range(40)]
PROCESSES = Path(__file__).with_name("two_processes.py")


def start(*command: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


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
    start("torch.distributed.run", "--standalone", "--nproc-per-node", "2", PROCESSES, folder)
    return folder


@pytest.fixture(scope="module")
def one(model_folder, splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")

    def run(name: str, **change) -> Path:
        config = dataclasses.replace(CONFIG, **change)
        options = {"seed": 0, "weights": WEIGHTS, "progress": False}
        return finetune(model_folder, splits.train, config, folder=folder / name, **options)

    return run


def weights(folder: Path) -> torch.Tensor:
    tensors = load_file(folder / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def losses(folder: Path) -> list[float]:
    curve = json.loads((folder / "run.json").read_text())["loss_curve"]
    assert [step for step, _ in curve] == list(range(1, 15))
    return [loss for _, loss in curve]


def assert_same(left: Path, right: Path, start: Path) -> None:
    assert load_file(left / "model.safetensors").keys() == load_file(right / "model.safetensors").keys()
    moved = float((weights(left) - weights(start)).abs().max())
    apart = float((weights(left) - weights(right)).abs().max())
    assert moved > 0.02
    assert apart < 1e-4 * moved


def assert_two(folder: Path, *, sharded: bool) -> None:
    record = json.loads((folder / "run.json").read_text())
    assert (record["processes"], record["steps"], record["sharded"]) == (2, 14, sharded)


def test_replicated_training_is_that_of_one_process(one, two, model_folder) -> None:
    assert_same(one("plain"), two / "replicated", model_folder)
    assert_two(two / "replicated", sharded=False)


def test_sharded_packed_checkpointed_and_interrupted_training_is_that_of_one_process(
    one, two, model_folder
) -> None:
    assert_same(one("plain"), two / "sharded", model_folder)
    assert_two(two / "sharded", sharded=True)
    assert not list(two.glob("*.part"))


def test_sharded_adapters_are_those_of_one_process(one, two, model_folder) -> None:
    assert_same(one("lora", lora_rank=4), two / "lora", model_folder)


def test_sharded_packed_checkpointed_bfloat16_is_that_of_one_process_to_rounding(
    one, two, model_folder
) -> None:
    full, alone, shared = map(weights, (one("plain"), one("half", precision="bfloat16"), two / "half"))
    rounding = (alone - full).norm()
    assert 0 < rounding < 0.1 * (full - weights(model_folder)).norm()  # 0.036
    # Two runs that are one rounding each from float32 are at most two apart. Found: 1.05 apart, 1.25 from
    # float32 (FSDP rounds the norms' weights too, autocast does not); without weights it would be 6 apart.
    assert (shared - alone).norm() < 2 * rounding
    assert (shared - full).norm() > 0.5 * rounding  # or it would have been float32
    assert losses(two / "half") == pytest.approx(losses(one("half", precision="bfloat16")), rel=2**-8)
    assert_two(two / "half", sharded=True)


def test_one_and_two_processes_log_the_same_loss(one, two) -> None:
    for name in ("replicated", "sharded"):
        assert losses(two / name) == pytest.approx(losses(one("plain")), rel=1e-3)


@pytest.mark.parametrize("sharded", [False, True], ids=["replicated", "sharded"])
def test_the_command_under_accelerate_launch_trains_what_one_process_trains(
    one, model_folder, splits, root, tmp_path, sharded
) -> None:
    write_jsonl(tmp_path / "train.jsonl", splits.train)
    ids = [example.id for example in splits.train]
    pd.DataFrame({"id": ids, "weight": WEIGHTS}).to_csv(tmp_path / "weights.csv", index=False)
    starter = ["accelerate.commands.launch", "--config_file", root / "workflow" / "accelerate_fsdp.yaml"]
    starter += ["--num_processes", "2", "--main_process_port", "0"]
    # Not --cpu, which starts one process. Sharding needs what the script does first.
    starter += [PROCESSES] if sharded else ["--multi_gpu", "-m", "infra_lib.cli"]
    command = ["finetune", "--device", "cpu", "--model", model_folder, "--train", tmp_path / "train.jsonl"]
    command += ["--weights", tmp_path / "weights.csv", "--out", tmp_path / "tuned"]
    for name in ("epochs", "batch_size", "learning_rate", "gradient_accumulation"):
        command += [f"--{name.replace('_', '-')}", str(getattr(CONFIG, name))]
    start(*starter, *command, *(["--packing", "--gradient-checkpointing"] if sharded else []))
    assert_same(one("plain"), tmp_path / "tuned", model_folder)
    assert losses(tmp_path / "tuned") == pytest.approx(losses(one("plain")), rel=1e-3)
    assert_two(tmp_path / "tuned", sharded=sharded)


def test_a_launch_hands_over_the_whole_job(one, model_folder, splits, tmp_path, monkeypatch) -> None:
    def started(command, **_):
        assert command[1:7] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        launch.run_job(Path(command[-1]))
        return subprocess.CompletedProcess(command, 0)

    with monkeypatch.context() as patch:
        patch.setattr(starting.subprocess, "run", started)
        config, folder = dataclasses.replace(CONFIG, epochs=1), tmp_path / "a"
        options = {"seed": 0, "weights": WEIGHTS, "progress": False}
        launch.finetune_on(2, model_folder, splits.train, config, folder=folder, **options)
        patch.setattr(starting.subprocess, "run", lambda *_, **__: pytest.fail("trained again"))
        launch.finetune_on(2, model_folder, splits.train, config, folder=folder, **options)
    assert_same(one("short", epochs=1), folder, model_folder)


@pytest.mark.reliability(kind="fault", title="a launch of several processes fails")
def test_a_failed_launch_says_so_and_leaves_no_model(model_folder, tmp_path, splits, monkeypatch) -> None:
    monkeypatch.setattr(starting.sys, "executable", "/bin/false")
    with pytest.raises(InfraError, match="torchrun with 2 processes"):
        launch.finetune_on(2, model_folder, splits.train[:8], CONFIG, seed=0, folder=tmp_path / "a")
    assert not (tmp_path / "a").exists()
