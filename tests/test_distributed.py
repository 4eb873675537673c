"""Two processes give what one gives, and an error in one ends both with one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from distributed_worker import CASES, run_cases

from infra_lib import distributed
from infra_lib.distributed import group, shards, work
from infra_lib.errors import DataError, ParameterError
from infra_lib.models import Encoded

WORKER = Path(__file__).with_name("distributed_worker.py")


def start(*program: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *program]
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def started(model_folder, files, tmp_path_factory):
    """Three runs of two processes each, side by side: name to (folder, exit status, output)."""
    out = tmp_path_factory.mktemp("distributed")
    for name in ("two", "torn"):
        (out / name).mkdir()
    good = (files / "train.jsonl").read_bytes()
    (out / "torn" / "train.jsonl").write_bytes(good + b'{"id": "half\n')
    base = ["attribute", "--model", str(model_folder), "--target", str(files / "target.jsonl")]
    torn = ["--train", str(out / "torn" / "train.jsonl"), "--out", str(out / "torn" / "out")]
    whole = ["--train", str(files / "train.jsonl"), "--out", str(out / "one_fails")]
    runs = {
        "two": start(str(WORKER), "cases", str(model_folder), str(files), str(out / "two")),
        "torn": start("-m", "infra_lib.cli", *base, *torn),
        "one_fails": start(str(WORKER), "fail", *base, *whole),
    }
    try:
        found = {}
        for name, process in runs.items():
            said = process.communicate(timeout=300)
            found[name] = (out / name, process.returncode, "".join(said))
        return found
    finally:
        for process in runs.values():
            process.kill()


@pytest.fixture(scope="module")
def alone(model_folder, files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run_cases(model_folder, files, folder)
    return folder


def same(one: np.ndarray, two: np.ndarray, tolerance: float = 1e-4) -> bool:
    return np.allclose(one, two, rtol=tolerance, atol=tolerance / 10 * np.abs(one).max())


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_scores_of_one(started, alone, case) -> None:
    folder, status, said = started["two"]
    assert status == 0, said[-3000:]
    name, prefix = ("ekfac", "") if case == "position" else (case, "first-" if case == "ekfac" else "")
    for level in CASES[case].get("levels", ("example",)):
        one, two = (pd.read_parquet(f / name / f"{prefix}{level}s.parquet") for f in (alone, folder))
        assert one.drop(columns=["score", "rank"], errors="ignore").equals(
            two.drop(columns=["score", "rank"], errors="ignore")
        )
        # TRAK's ridge is a tenth of the projected Gram matrix's mean, whose largest eigenvalue may be its
        # whole trace: the inverse multiplies float32's rounding by up to ten times the dimension, some 5,000.
        first, second = one["score"].to_numpy(), two["score"].to_numpy()
        if case == "trak":
            assert np.abs(first - second).max() < 5e-4 * np.abs(first).max()
        else:
            assert same(first, second, 1e-4)


def test_two_processes_give_the_self_influence_and_the_study_of_one(started, alone) -> None:
    folder = started["two"][0]
    one, two = (pd.read_parquet(f / "ekfac" / "self_influence.parquet") for f in (alone, folder))
    assert same(one["self_influence"].to_numpy(), two["self_influence"].to_numpy())
    assert same(np.load(alone / "study.npy"), np.load(folder / "study.npy"))


def test_factors_are_stored_once_and_whole(started, alone) -> None:
    folder = started["two"][0]
    for case in ("ekfac", "rounds"):
        one, two = (sorted(p.name for p in (f / case / "factors").iterdir()) for f in (alone, folder))
        assert one == two
    assert len(list((folder / "rounds" / "factors").glob("*.safetensors"))) > 1


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ("torn", "train.jsonl, line 11: not a JSON object"),
        ("one_fails", "the second process has had enough"),
    ],
)
def test_an_error_ends_all_processes_with_one_sentence(started, run, sentence) -> None:
    folder, status, said = started[run]
    assert status != 0
    assert sum(line.startswith("infra: ") for line in said.splitlines()) == 1, said[-3000:]
    assert f"infra: {folder}/{sentence}" in said or f"infra: {sentence}" in said
    assert not (folder / "provenance.json").exists()


# --- Without starting processes ----------------------------------------------------------


def rows_of(lengths):
    mask = torch.ones(1, dtype=torch.bool)
    return [Encoded(str(i), torch.zeros(n, dtype=torch.long), mask, ((0, 1),)) for i, n in enumerate(lengths)]


def parted(monkeypatch, rows, processes):
    monkeypatch.setattr(shards, "size", lambda: processes)
    found = []
    for number in range(processes):
        monkeypatch.setattr(shards, "rank", lambda number=number: number)
        found.append(distributed.shard(rows))
    return found


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_shards_part_the_examples_with_like_numbers_of_tokens(monkeypatch, processes) -> None:
    lengths = np.random.default_rng(0).integers(5, 400, 90)
    parts = parted(monkeypatch, rows_of(lengths), processes)
    assert sorted(row for part in parts for row in part.rows) == list(range(90))
    loads = [lengths[list(part.rows)].sum() for part in parts]
    assert max(loads) <= 1.05 * lengths.sum() / processes


@pytest.mark.reliability(kind="bad input", title="fewer examples than processes")
def test_fewer_examples_than_processes_are_refused_where_each_needs_one(monkeypatch) -> None:
    parts = parted(monkeypatch, rows_of([3]), 2)
    assert [part.rows for part in parts] == [(0,), ()]
    with pytest.raises(ParameterError, match=r"--nproc-per-node is 2: .* at most the 1 training examples"):
        distributed.shard(rows_of([3]), at_least_one=True)


def test_alone_everything_is_the_identity() -> None:
    rows = rows_of([4, 2])
    part = distributed.shard(rows)
    assert part.take(rows) is rows
    values = {"t": [np.ones(3), np.zeros(1)]}
    assert part.gather(values) == values
    assert distributed.add_up_number(3) == 3
    assert distributed.speaks_first()
    assert distributed.spread(lambda name, matrix: (matrix + 1,), {"a": torch.zeros(2, 2)})["a"][0].sum() == 4


@pytest.mark.reliability(kind="fault", title="a process that does not see the first one's files")
def test_a_process_without_the_first_ones_files_says_so(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(work, "add_up_number", lambda number: 1)
    monkeypatch.setattr(work, "_PATIENCE", 0.5)
    with pytest.raises(DataError, match="storage that all of them share"):
        distributed.is_stored(tmp_path / "none.safetensors")


@pytest.mark.reliability(kind="bad input", title="more processes than CUDA devices")
def test_cuda_devices_are_given_out_by_local_rank(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert group._own_cuda_device("cuda") == "cuda:1"
    with pytest.raises(ParameterError, match="without a number"):
        group._own_cuda_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ParameterError, match="at most the 1 CUDA devices"):
        group._own_cuda_device("cuda")
