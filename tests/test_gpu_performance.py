"""What was recorded on a GPU is whole and shown; the code that recorded it still runs, small and on a CPU."""

from __future__ import annotations

import importlib.util
import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from benchmarks import gpu, operations, partition
from benchmarks.records import command_of, keep
from benchmarks.setting import GPU_SIZES, SIZES
from infra_lib import checksums
from infra_lib.errors import DataError
from infra_lib.performance import write_gpu
from infra_lib.performance.gpu import MISSING_GPU, read_records, runs_frame, total
from infra_lib.performance.gpu_words import by_length, chance, eigendecompositions, first_attempt, held_before


@pytest.fixture(scope="module")
def records(root):
    return read_records(root)


def test_without_records_the_page_names_the_commands(tmp_path) -> None:
    fragments = write_gpu(tmp_path, tmp_path / "results")
    assert fragments["gpu_origin"] == MISSING_GPU
    assert set(fragments.values()) == {MISSING_GPU, ""}
    assert not (tmp_path / "results").exists()


def test_the_records_say_what_they_were_made_with(records) -> None:
    assert {"attribution", "partition"} <= set(records)
    for record in records.values():
        assert record["environment"]["device"].startswith("NVIDIA")
        assert record["environment"]["versions"]["torch"]
        assert len(record["environment"]["commit"].removesuffix("+changes")) == 40
        assert record["driver"] != "none"
        assert all(
            run.get("error") or (run["seconds"] > 0 and run["peak_bytes"] > 0) for run in record["runs"]
        )


def test_the_page_shows_the_recorded_numbers(root, records, tmp_path) -> None:
    fragments = write_gpu(root, tmp_path)
    assert all(fragments.values())
    assert "recorded run" in fragments["gpu_origin"]
    frame = runs_frame([r for name, r in records.items() if name.startswith("attribution")])
    own, theirs = total(frame, "1b", "infra", "bfloat16"), total(frame, "1b", "kronfluence", "float32")
    assert own is not None
    assert theirs is not None
    assert f"<strong>{own[0]:.1f}</strong>" in fragments["gpu_ratios"]
    assert f"<strong>{theirs[0] / own[0]:.2f}</strong>" in fragments["gpu_ratios"]
    assert fragments["gpu_targets"].count("verdict-") >= 6
    first = [run for run in records["first-attempt"]["runs"] if run["size"] == "1b"]
    cosines = [
        value for run in first if run["step"] == "against_float32" for value in run["agreement"].values()
    ]
    assert f"cosine of {min(cosines):.2f}" in fragments["gpu_first"]
    one = records["partition"]
    fit = next(run for run in one["runs"] if run["step"] == "fit one partition")
    assert f"{one['plan']['seconds'] / fit['seconds']:.2f} times" in fragments["gpu_partition"]
    assert f"({records['attribution']['settings']['sizes']['1b']['train']} at" in fragments["gpu_agreement"]
    for name in ("gpu_memory", "gpu_roofline"):
        record = json.loads(
            (tmp_path / "figures" / "performance" / f"{name}.json").read_text(encoding="utf-8")
        )
        assert record["function"].startswith("infra_lib.performance.gpu.")
        assert (tmp_path / record["results"]).is_file()


def test_what_was_held_before_a_peer_began_is_told(records) -> None:
    shown = [record for name, record in records.items() if name.startswith("attribution")]
    said = held_before(shown)
    fit = next(run for run in records["attribution-135m"]["runs"]
               if run["library"] == "kronfluence" and run["step"] == "fit")  # fmt: skip
    rest = (fit["held_bytes"] - 4 * fit["parameters"]) / 2**30
    assert f"{rest:.1f} GiB at 135 M" in said
    assert "At 1.03 B parameters it was not recorded" in said
    alone = {"library": "kronfluence", "step": "fit", "size": "1b", "parameters": 100, "held_bytes": 400}
    assert held_before([{"runs": [alone]}]) == ""


def test_the_sequences_that_were_compared_are_counted(records) -> None:
    assert "compare 2 to 8 sequences" in chance(records["attribution"])
    run = {"size": "1b", "step": "same_factors", "sequences": 16}
    assert "compare 16 sequences" in chance({"settings": {"sizes": {}}, "runs": [run]})


def test_a_record_of_other_sizes_has_no_words_on_a_billion_parameters(records) -> None:
    small = {"settings": {"sizes": {"10m": {}}}, "ceilings": {"eigendecompositions": []}}
    assert eigendecompositions(small) == ""
    only = {"size": ["10m"], "tokens": [512], "library": ["infra"], "step": ["tokens"], "seconds": [1.0]}
    assert by_length(pd.DataFrame(only)) == ""
    compared = [{"size": "10m", "step": "same_factors"}]
    assert "billion" not in chance({**small, "runs": compared})
    assert chance({**small, "runs": []}) == ""
    assert first_attempt(records["first-attempt"], small) == ""


@pytest.mark.reliability(kind="fault", title="a changed byte in a record of a GPU")
def test_a_changed_record_is_refused(root, tmp_path) -> None:
    shutil.copytree(root / "records", tmp_path / "records")
    path = tmp_path / "records" / "gpu" / "attribution.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"infra"', '"Infra"', 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"attribution\.json"):
        write_gpu(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "drop", "lacks"),
    [
        ("attribution", lambda record: record.pop("ceilings"), "ceilings"),
        ("attribution", lambda record: record["runs"][1].pop("peak_bytes"), "peak_bytes"),
        ("partition", lambda record: record.pop("settings"), "settings"),
    ],
)
def test_a_record_of_other_code_is_refused_with_what_it_lacks(root, tmp_path, name, drop, lacks) -> None:
    shutil.copytree(root / "records" / "gpu", tmp_path / "records" / "gpu")
    path = tmp_path / "records" / "gpu" / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    drop(record)
    path.write_text(json.dumps(record), encoding="utf-8")
    checksums.write_manifest(tmp_path / "records")
    with pytest.raises(DataError, match=rf"{name}\.json.*it lacks {lacks}; `make gpu` makes it again"):
        write_gpu(tmp_path, tmp_path / "out")


def test_the_fastest_run_counts_and_failures_do_not() -> None:
    run = {"size": "s", "tokens": 8, "library": "infra", "dtype": "bfloat16", "parameters": 5}
    runs = [run | {"step": step, "seconds": s, "peak_bytes": b} for step, s, b in
            [("fit", 3.0, 7), ("fit", 2.0, 9), ("direct", 1.0, 1), ("tokens", 0.5, 8)]]  # fmt: skip
    failed = run | {"step": "fit", "error": "OutOfMemoryError: none"}
    assert total(runs_frame([{"runs": [*runs, failed]}]), "s", "infra", "bfloat16") == (3.5, 8, 1)
    assert total(runs_frame([{"runs": runs[:2]}]), "s", "infra", "bfloat16") is None


def test_the_benchmark_still_runs(tmp_path) -> None:
    out = tmp_path / "record.json"
    command = ["--device", "cpu", "--quick", "--out", str(out), "--parts", str(tmp_path / "parts")]
    gpu.main(command)
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["command"] == ["python", "-m", "benchmarks.gpu", "--device", "cpu", "--quick"]
    assert not list((tmp_path / "parts").iterdir())
    assert not [run for run in record["runs"] if "error" in run]
    steps = {(run["library"], run["step"]) for run in record["runs"]}
    assert {("infra", s) for s in ("forward", "fit", "direct", "tokens", "positions")} <= steps
    if ("infra", "same_factors") in steps:
        assert {("kronfluence", s) for s in ("fit", "tokens", "examples")} <= steps
        assert {run["dtype"] for run in record["runs"] if run["library"] == "kronfluence"} == {
            "float32",
            "low precision",
        }
        agreed = [run["agreement"] for run in record["runs"] if run["library"] == "kronfluence"
                  and run["step"] == "tokens"]  # fmt: skip
        assert all(set(found) == {"math", "code"} for found in agreed)
        same = next(run for run in record["runs"] if run["step"] == "same_factors")
        assert min(same["agreement"].values()) > 0.999
    assert all(check["relative_error"] < 1e-2 for check in record["attention"])


def test_a_process_that_dies_is_a_result_and_is_tried_again(tmp_path, monkeypatch, capsys) -> None:
    """What it had found is kept, the rest of the benchmark goes on, and the same command tries again."""
    dies = {"infra-tiny-32"}
    out = tmp_path / "record.json"

    def start(command, **_):
        key = command[command.index("--cell") + 1]
        (parts,) = (tmp_path / "parts").iterdir()
        runs = [{"size": "tiny", "library": key.split("-")[0], "step": "forward", "seconds": 1.0}]
        name = f"{key}.unfinished" if key in dies else f"{key}.json"
        (parts / name).write_text(json.dumps({"runs": runs}), encoding="utf-8")
        return SimpleNamespace(returncode=-9 if key in dies else 0)

    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(run=start))
    gpu.main(["--device", "cpu", "--quick", "--out", str(out), "--parts", str(tmp_path / "parts")])
    runs = json.loads(out.read_text(encoding="utf-8"))["runs"]
    assert [run["library"] for run in runs if "error" not in run][:2] == ["machine", "infra"]
    (failed,) = (run for run in runs if "error" in run)
    assert failed["error"] == "the process ended with status -9"
    started = json.loads(out.read_text(encoding="utf-8"))["started"]
    dies.clear()
    capsys.readouterr()
    gpu.main(["--device", "cpu", "--quick", "--out", str(out), "--parts", str(tmp_path / "parts")])
    said, again = capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))
    assert said.count("done before") == len(gpu.cells({"tiny": SIZES["tiny"]}, [])) - 1
    assert not [run for run in again["runs"] if "error" in run]
    assert again["started"] == started
    assert not list((tmp_path / "parts").iterdir())


def test_the_same_tokens_are_measured_at_every_length() -> None:
    for length in gpu.LENGTHS:
        size = gpu.of_length(GPU_SIZES["135m"], length)
        assert size.train * size.tokens == GPU_SIZES["135m"].train * GPU_SIZES["135m"].tokens
    keys = [cell.key for cell in gpu.cells(GPU_SIZES, gpu.LENGTHS)]
    assert len(keys) == len(set(keys))
    if importlib.util.find_spec("kronfluence"):
        beside = [cell.key for cell in gpu.cells({}, [2048], beside=True)]
        assert beside == [
            "machine", "infra-135m-2048", "kronfluence-defaults-135m-2048",
            "kronfluence-low-precision-135m-2048",
        ]  # fmt: skip
    assert [key for key in keys if key.startswith("infra-135m")] == [
        "infra-135m-512", "infra-135m-1024", "infra-135m-2048", "infra-135m-4096",
    ]  # fmt: skip


def test_a_step_that_fails_is_recorded_and_the_rest_goes_on(tmp_path) -> None:
    record = {"runs": []}
    bench = gpu.Bench("cpu", tmp_path / "r.json", record)
    with bench.step(step="one"):
        raise RuntimeError("CUDA out of memory\nand more")
    with bench.step(step="two"):
        pass
    kept = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["runs"]
    assert kept[0] == {"step": "one", "error": "RuntimeError: CUDA out of memory"}
    assert kept[1]["seconds"] >= 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.reliability(kind="bad input", title="a benchmark of a GPU where there is none")
def test_a_missing_gpu_is_said_before_anything_runs(tmp_path) -> None:
    with pytest.raises(SystemExit, match="no CUDA device here"):
        gpu.main(["--out", str(tmp_path / "x.json")])
    with pytest.raises(SystemExit, match="no CUDA device here"):
        partition.main(["--out", str(tmp_path / "x.json")])
    assert not (tmp_path / "x.json").exists()


def test_one_partition_still_runs_and_takes_a_plan(root, tmp_path) -> None:
    out = tmp_path / "partition.json"
    partition.main(["--device", "cpu", "--shape", "tiny", "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["runs"][0]["stored_bytes"] > 0
    assert len(record["runs"][0]["checks"]) == 3
    partition.main(["--plan", str(out)])
    plan = json.loads(out.read_text(encoding="utf-8"))["plan"]
    assert plan["partitions"] == SIZES["tiny"].layers
    assert plan["stored_bytes"] == pytest.approx(record["runs"][0]["stored_bytes"], rel=0.1)


def test_a_benchmarks_record_is_listed_alone(tmp_path) -> None:
    records = tmp_path / "records"
    (records / "gpu").mkdir(parents=True)
    for name in ("gpu/one.json", "gpu/two.json"):
        (records / name).write_text("{}")
    checksums.write_manifest(records)
    keep(records / "gpu" / "one.json", {"seconds": 1}, records)
    assert checksums.damaged_others(records) == []
    (records / "gpu" / "two.json").write_text('{"seconds": 2}')
    with pytest.raises(DataError, match=r"two\.json.*is not the file that was recorded"):
        keep(records / "gpu" / "one.json", {"seconds": 3}, records)
    assert json.loads((records / "gpu" / "one.json").read_text()) == {"seconds": 3}
    assert checksums.damaged_others(records) == ["gpu/one.json", "gpu/two.json"]
    keep(tmp_path / "elsewhere.json", {"seconds": 4}, records)


def test_a_record_holds_no_places_of_one_machine() -> None:
    given = ["--out", "a", "--size", "tiny", "--disk=b", "--commit", "c", "--parts=d", "--beside"]
    expected = ["python", "-m", "benchmarks.gpu", "--size", "tiny", "--beside"]
    assert command_of("benchmarks.gpu", given) == expected


def test_counted_operations_are_those_of_the_products() -> None:
    size = SIZES["tiny"]  # 2 layers, 32 wide, 64 inside, 2 heads that are their own keys, rows of 32 tokens
    weights = 4 * 32 * 32 + 3 * 32 * 64
    attention = 2 * 32 * 32  # two products with half of the keys each
    assert operations.forward(size, 3).operations == 3 * 32 * 2 * (2 * weights + attention)
    one, two = (operations.token_scores(size, 1, targets).operations for targets in (1, 2))
    assert two - one == 32 * 2 * (2 * (weights + 3 * 32 * 64) + 2 * attention)
    work = operations.fit(size, 1, 1)
    assert work.operations > operations.forward(size, 1).operations
    assert work.intensity == work.operations / work.bytes
