"""Runs that are cut off: by a kill, a signal, a full disk, another run, a clock, a lost file.

Each test ends with the promise: the next `infra run` ends in the same results, byte for byte, and in
between no file looks complete that is not. `pytest --faults N` (or `make faults`) kills N more times.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from faults import (
    Started,
    assert_next_run_ends_the_same,
    assert_nothing_looks_complete_that_is_not,
    data_digests,
    flip_byte,
    forget,
    run_in_mounts,
)

from infra_lib.checksums import checksum_path
from infra_lib.layout import STAGES

USUAL_SECONDS = {
    "03_finetune_evaluate": 18,
    "04_example_influence": 9,
    "05_reweighting_arms": 12,
    "07_method": 20,
    "08_explorer": 8,
    "09_validation": 40,
}
"""How long a stage takes here from its first line to its last, roughly; others take about 4 s."""


def kill_in(project, stage: str, random_: random.Random, log) -> str:
    """Start a stage, kill its process group after a random fraction of its usual time, and say when."""
    forget_training(project, stage)
    forget(project, stage)
    started = Started(project, log, stage)
    started.wait_for_stage(stage)
    seconds = random_.random() * USUAL_SECONDS.get(stage, 4)
    time.sleep(seconds)
    started.kill_group()
    started.wait_for_the_end()
    return f"{stage[:2]} after {seconds:.1f} s"


def forget_training(project, stage: str) -> None:
    """Take away a model and an exam of a stage that trains, so that there is something to cut off."""
    if stage not in ("03_finetune_evaluate", "05_reweighting_arms"):
        return
    runs = project.stage("runs")
    models = json.loads((project.stage("03_finetune_evaluate") / "data" / "models.json").read_text())
    uniform = [model["folder"] for model in models]
    arms = sorted({path.parent.name for path in runs.glob("*/run.json")} - set(uniform))
    folder = (uniform if stage == "03_finetune_evaluate" else arms)[0]
    shutil.rmtree(runs / folder)
    answers = next(runs.glob(f"{folder}-*.parquet"))
    answers.unlink()
    checksum_path(answers).unlink()


@pytest.mark.reliability(kind="fault", title="SIGKILL at a random moment of every notebook")
def test_a_kill_at_a_random_moment_of_every_notebook_loses_nothing(
    broken, tmp_path, record_property, pytestconfig
) -> None:
    seed = int(os.environ.get("INFRA_FAULT_SEED", random.SystemRandom().randrange(10**6)))
    random_ = random.Random(seed)
    expected = data_digests(broken)
    # From the last to the first: each stage finds those before it finished.
    moments = [kill_in(broken, stage, random_, tmp_path / "log") for stage in reversed(STAGES)]
    print(f"seed {seed}: killed {', '.join(moments)}")
    assert_nothing_looks_complete_that_is_not(broken)
    assert_next_run_ends_the_same(broken, expected)
    for _ in range(pytestconfig.getoption("faults")):
        moments.append(kill_in(broken, random_.choice(list(STAGES)), random_, tmp_path / "log"))
        print(f"killed {moments[-1]}")
        assert_nothing_looks_complete_that_is_not(broken)
        assert_next_run_ends_the_same(broken, expected)
    record_property("inputs", len(moments))
    record_property("outcome", f"{len(moments)} kills; then the same results, byte for byte (seed {seed})")


def interrupt(started: Started) -> None:
    os.killpg(started.process.pid, signal.SIGINT)


def terminate(started: Started) -> None:
    started.process.terminate()


def kill_the_command_alone(started: Started) -> None:
    started.process.kill()


def kill_the_kernel(started: Started) -> None:
    started.kernel().kill()


WAYS = {
    interrupt: (130, "infra: interrupted; what finished is kept"),
    terminate: (130, "infra: interrupted; what finished is kept"),
    kill_the_command_alone: (-signal.SIGKILL, ""),
    kill_the_kernel: (2, "its kernel was killed from outside"),
}


@pytest.mark.reliability(
    kind="fault", title="Ctrl-C, SIGTERM, a killed command and a killed kernel in the middle of a notebook"
)
def test_every_way_to_stop_a_run_ends_all_of_it_and_loses_nothing(broken, tmp_path, record_property) -> None:
    expected = data_digests(broken)
    forget(broken, "04_example_influence")
    for way, (status, message) in WAYS.items():
        started = Started(broken, tmp_path / "log", "04")
        started.wait_for(started.kernel)
        time.sleep(1.5)
        way(started)
        assert started.wait_for_the_end() == status, (way.__name__, started.output)
        assert message in started.output
        assert_nothing_looks_complete_that_is_not(broken)
    assert_next_run_ends_the_same(broken, expected)
    record_property("inputs", len(WAYS))
    record_property("outcome", "nothing left running; the next run ends in the same results")


@pytest.mark.reliability(kind="fault", title="two runs of one study started at the same moment")
def test_of_two_runs_at_once_the_second_is_told_and_the_first_ends_the_same(
    broken, tmp_path, record_property
) -> None:
    expected = data_digests(broken)
    forget(broken, "06_summary")
    both = [Started(broken, tmp_path / f"log{i}") for i in range(2)]
    statuses = sorted(started.process.wait(timeout=120) for started in both)
    assert statuses == [0, 2], [started.output for started in both]
    told = next(started.output for started in both if started.process.returncode == 2)
    assert "study smoke is being run by process" in told
    assert data_digests(broken) == expected
    record_property("outcome", "the second is told who runs it; the first ends in the same results")


@pytest.mark.reliability(
    kind="fault", title="the clock is set back: results from the future, changes from the past"
)
def test_a_clock_set_back_changes_neither_what_runs_nor_what_comes_out(broken, record_property) -> None:
    expected = data_digests(broken)
    tomorrow = time.time() + 86_400
    for folder in ("_build", "notebooks", "records"):
        for path in (broken.folder / folder).rglob("*"):
            os.utime(path, (tomorrow, tomorrow))
    notebook = broken.folder / "notebooks" / "06_summary.py"
    notebook.write_text(notebook.read_text() + "\n# %%\nprint('changed long ago')\n")
    os.utime(notebook, (1e9, 1e9))
    output = assert_next_run_ends_the_same(broken, expected)
    assert "running 06_summary: the notebook changed" in output
    assert output.count("running ") == 1
    # And the other way about: an input from the future of a stage that runs now.
    os.utime(notebook, (tomorrow, tomorrow))
    forget(broken, "06_summary")
    assert_next_run_ends_the_same(broken, expected)
    record_property("inputs", 2)
    record_property("outcome", "content decides: the changed notebook runs, nothing else does")


@pytest.mark.reliability(
    kind="fault", title="lost folders, torn records, an unreadable file and the lock of a dead process"
)
def test_lost_and_torn_pieces_are_named_and_come_again(broken, record_property) -> None:
    expected = data_digests(broken)
    (broken.stage(".lock")).write_text("999999")
    shutil.rmtree(broken.stage("work"))
    shutil.rmtree(broken.stage("02_base_model"))
    torn = {
        "01_data": "provenance.json",
        "04_example_influence": "depends.json",
        "06_summary": "data/claims.parquet",
    }
    for stage, name in torn.items():
        path = broken.stage(stage) / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    unreadable = broken.stage("05_reweighting_arms") / "notebook.ipynb"
    unreadable.unlink()
    unreadable.mkdir()  # not even root reads a folder as a file
    broken.stage("study.json").write_text("{")
    leftover = broken.stage("05_reweighting_arms").with_name(".x.json.999999.tmp")
    leftover.write_text("half")
    output = assert_next_run_ends_the_same(broken, expected)
    assert "running 02_base_model: it has not run" in output
    for stage, name in {**torn, "05_reweighting_arms": "notebook.ipynb"}.items():
        line = next(line for line in output.splitlines() if line.startswith(f"running {stage}"))
        assert name in line
    assert not leftover.exists()
    assert broken.infra("verify", "--study", "smoke").returncode == 0
    record_property("inputs", 8)
    record_property("outcome", "each is named; what was lost is computed again, to the same results")


SMALL_DISK = """
cp -r _build /tmp/kept.$$
mount -t tmpfs -o size=1g none _build && cp -r /tmp/kept.$$/. _build/ && rm -rf /tmp/kept.$$
rm -rf _build/studies/smoke/04_example_influence _build/studies/smoke/work/04_example_influence
used=$(du -sk _build | cut -f1)
mount -o remount,size=$((used + 1500))k _build
echo "== full"; $INFRA run --study smoke; echo "status $?"
$INFRA verify --study smoke; echo "verified $?"
mount -o remount,size=1g _build
mount -o remount,ro _build
echo "== read-only"; $INFRA run --study smoke; echo "status $?"
mount -o remount,rw _build
echo "== again"; $INFRA run --study smoke; echo "status $?"
cp -r _build/studies/smoke "$1"
"""


@pytest.mark.reliability(kind="fault", title="the disk is full, then read-only, then has room again")
def test_a_full_and_a_read_only_disk_are_named_and_nothing_is_half(broken, tmp_path, record_property) -> None:
    expected = data_digests(broken)
    after = tmp_path / "after"
    done = run_in_mounts(SMALL_DISK.replace("$1", str(after)), broken)
    parts = done.stdout.split("== ")
    assert len(parts) == 4, done.stdout + done.stderr
    assert "status 2" in parts[1]
    assert "No space left on device" in done.stdout + done.stderr
    assert "verified 0" in parts[1] or "0             0             0" in parts[1]
    assert "status 2" in parts[2]
    assert "Read-only file system" in done.stderr
    assert "status 0" in parts[3], done.stdout[-3000:] + done.stderr[-3000:]
    shutil.rmtree(broken.stage("."))
    shutil.move(after, broken.stage("."))
    assert data_digests(broken) == expected
    record_property("inputs", 2)
    record_property("outcome", "named errors, nothing half; with room again the same results")


FULL_TEMPORARY = """
mkdir -p /tmp/tiny.$$ && mount -t tmpfs -o size=64k none /tmp/tiny.$$
dd if=/dev/zero of=/tmp/tiny.$$/fill bs=1k status=none 2>/dev/null
TMPDIR=/tmp/tiny.$$ $INFRA run 03 --study smoke; echo "status $?"
umount /tmp/tiny.$$; rmdir /tmp/tiny.$$
"""


@pytest.mark.reliability(kind="fault", title="the temporary folder is full while answers are graded")
def test_a_full_temporary_folder_is_named_or_does_not_matter(broken, record_property) -> None:
    expected = data_digests(broken)
    forget(broken, "03_finetune_evaluate")
    random.Random(0).choice(sorted(broken.stage("runs").glob("*.parquet"))).unlink()
    done = run_in_mounts(FULL_TEMPORARY, broken)
    if "status 0" in done.stdout:
        record_property("outcome", "the run does without it and ends in the same results")
    else:
        assert "No space left on device" in done.stdout + done.stderr or "temporary" in done.stderr
        assert_nothing_looks_complete_that_is_not(broken)
        record_property("outcome", "a named error; the next run ends in the same results")
    assert_next_run_ends_the_same(broken, expected)


@pytest.mark.reliability(
    kind="fault", title="a changed byte in stages, models, answers and factors of one study"
)
def test_changed_bytes_are_found_by_the_next_run_which_ends_the_same(broken, record_property) -> None:
    random_ = random.Random(7)
    expected = data_digests(broken)
    runs = broken.stage("runs")
    model = json.loads((broken.stage("03_finetune_evaluate") / "data" / "models.json").read_text())[0][
        "folder"
    ]
    changed = [
        broken.stage("01_data") / "data" / "train.parquet",
        broken.stage("02_base_model") / "notebook.ipynb",
        broken.stage("03_finetune_evaluate") / "figures" / "accuracy_by_difficulty.svg",
        broken.stage("04_example_influence") / "provenance.json",
        broken.stage("06_summary") / "depends.json",
        runs / model / "model.safetensors",
        sorted(runs.glob(f"{model}-*.parquet"))[0],
        sorted(broken.stage("work").rglob("*.safetensors"))[0],
    ]
    for path in changed:
        flip_byte(path, random_)
    checked = broken.infra("verify", "--study", "smoke")
    assert checked.returncode == 1
    for path in changed:
        assert f"{path.relative_to(broken.folder)} is torn, or was changed" in checked.stdout
    output = assert_next_run_ends_the_same(broken, expected)
    for words in ("train.parquet is missing or changed", "it is trained again", "layers are fitted again"):
        assert words in output, output
    assert broken.infra("verify", "--study", "smoke").returncode == 0
    record_property("inputs", len(changed))
    record_property("outcome", "found before use and computed again, to the same results")


@pytest.mark.reliability(kind="fault", title="a changed byte in a base model's weights")
def test_a_changed_base_model_stops_the_run_by_name(broken, record_property) -> None:
    flip_byte(broken.folder / "records" / "base" / "seed1" / "model.safetensors", random.Random(3))
    done = broken.infra("run", "--study", "smoke")
    assert done.returncode == 2
    assert "seed1/model.safetensors is not the file that was recorded" in done.stdout + done.stderr
    restored = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=broken.folder / "records", check=False)
    assert restored.returncode != 0  # the usual tool finds it too
    record_property("outcome", "a named error before anything is trained")
