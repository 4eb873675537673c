"""The page of costs: from a record to fragments, and honest without one."""

from __future__ import annotations

import html
import json
import os
import re
import shutil

import pandas as pd
import pytest
import torch

from benchmarks import attribution, compiled, cost, scaling
from infra_lib.checksums import write_manifest
from infra_lib.errors import DataError
from infra_lib.performance import MISSING, write_performance
from infra_lib.performance.cpu import OLD, compiled_table, cost_lines, cost_words, scaling_table
from infra_lib.performance.shown import target_row


def test_without_a_record_the_page_says_so(tmp_path) -> None:
    fragments = write_performance(tmp_path, tmp_path / "results")
    assert fragments["performance_ratios"] == MISSING
    assert fragments["performance_cost"] == fragments["performance_scaling"] == MISSING
    assert fragments["performance_compiled"] == MISSING
    assert not (tmp_path / "results" / "figures").exists()


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Both benchmarks at their smallest, in a project's records."""
    root = tmp_path_factory.mktemp("project")
    folder = root / "records" / "benchmarks"
    attribution.main(["--quick", "--out", str(folder / "attribution.json")])
    cost.main(["--quick", "--out", str(folder / "cost.json")])
    if (os.cpu_count() or 1) > 1:
        scaling.main(["--size", "tiny", "--out", str(folder / "scaling.json")])
    if shutil.which("g++"):
        compiled.main(["--quick", "--out", str(folder / "compiled.json")])
    write_manifest(root / "records")
    return root


def test_quick_benchmarks_record_what_they_measured(quick) -> None:
    record = json.loads((quick / "records/benchmarks/attribution.json").read_text(encoding="utf-8"))
    assert {run["library"] for run in record["runs"]} >= {"infra", "trak"}
    assert all(run["seconds"] > 0 and run["forward_seconds"] > 0 for run in record["runs"])
    for size in record["settings"]["sizes"]:
        assert {r["library"] for r in record["runs"] if r["size"] == size} >= {"infra", "trak"}
    assert record["environment"]["versions"]["torch"]
    assert record["settings"]["threads"] == 1
    for peer in ("kronfluence", "bergson"):
        if peer in record["peers"]:
            assert all(row["peers"][peer]["seconds"] > 0 for row in record["summary"])
            assert all(row["peers"][peer]["peak_bytes"] > 0 for row in record["summary"])
        else:
            assert any(f"{peer} is not installed" in note for note in record["notes"])
    points = json.loads((quick / "records/benchmarks/cost.json").read_text(encoding="utf-8"))["points"]
    assert {p["targets"] for p in points} == {0, 1, 2, 4, 8}


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor")
def test_two_processes_are_held_against_one_and_against_the_machine(quick, tmp_path) -> None:
    path = quick / "records/benchmarks/scaling.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    taken = {(run["step"], run["what"]) for run in record["runs"]}
    assert taken == {
        (step, what)
        for step in ("fitting factors", "token scores", "position scores")
        for what in scaling.WHAT
    }
    assert all(run["seconds"] > 0 for run in record["runs"])
    seconds = {"one": 8.0, "together": 5.0, "side by side": 10.0}
    runs = [
        {"step": "s", "what": what, "repeat": repeat, "seconds": value * (1 + repeat)}
        for what, value in seconds.items()
        for repeat in range(2)
    ]
    table = scaling_table({"runs": runs, "settings": {"processes": 2}})
    found = html.unescape(re.sub(r"<[^>]*>", " ", table))
    # 8 / 5 = 1.6 of 2 · 8 / 10 = 1.6; the faster repetition counts
    assert "s 8.00 5.00 1.60 1.60 100% 2" in " ".join(found.split())
    assert "times as fast" in write_performance(quick, tmp_path)["performance_scaling"]


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler, which torch.compile needs")
def test_a_compiled_pass_is_held_against_the_pass_as_it_is(quick, tmp_path) -> None:
    path = quick / "records/benchmarks/compiled.json"
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    assert [run["way"] for run in runs] == ["as it is", "compiled, default"]
    assert runs[1]["difference"] < 1e-4
    assert "times as fast" in write_performance(quick, tmp_path)["performance_compiled"]
    both = {"size": "s", "parameters": 2e6, "tokens": 1000, "repeats": 3, "difference": 1e-6}
    plain_run = {**both, "way": "as it is", "seconds": 2.0, "first_seconds": 1.0}
    for seconds, pays in ((1.0, "20,000"), (3.0, "never")):  # 21 − 1 s at a gain of 1 ms a token
        other = {**both, "way": "compiled, x", "seconds": seconds, "first_seconds": 21.0}
        table = html.unescape(re.sub(r"<[^>]*>", " ", compiled_table({"runs": [plain_run, other]})))
        assert f"compiled, x 2.000 {seconds:.3f} {2 / seconds:.2f} 21 {pays} 1e-06 3" in " ".join(
            table.split()
        )


@pytest.mark.reliability(kind="bad input", title="a benchmark of more processes than the machine can run")
def test_processes_that_the_machine_does_not_have_are_refused() -> None:
    for count in ("1", "1000"):
        with pytest.raises(SystemExit, match=rf"--processes is {count}; it must be 2 to \d+"):
            scaling.main(["--processes", count])
    if not torch.cuda.is_available():
        for benchmark in (scaling, compiled):
            with pytest.raises(SystemExit, match="no CUDA device here"):
                benchmark.main(["--device", "cuda"])


def test_page_shows_the_record_and_its_origin(quick, tmp_path) -> None:
    fragments = write_performance(quick, tmp_path)
    record = json.loads((quick / "records/benchmarks/attribution.json").read_text(encoding="utf-8"))
    ratios = fragments["performance_ratios"]
    assert "recorded run" in ratios
    assert "of the time)" in ratios
    assert record["started"][:10] in ratios.replace("&#45;", "-")
    for row in record["summary"]:
        assert f"{row['seconds']:.2f}" in ratios
        for peer, theirs in row["peers"].items():
            assert f"Cost beside {peer}" in ratios
            assert f"<strong>{theirs['seconds'] / row['seconds']:.2f}</strong>" in ratios
    file_of = {
        "cost": "records/benchmarks/cost.json",
        "memory": "records/benchmarks/attribution.json",
    }
    for name in ("cost", "memory"):
        assert (tmp_path / "figures" / "performance" / f"{name}.csv").is_file()
        assert f"{{build-figure}} performance/{name}\n" in fragments[f"performance_{name}"]
        drawing = (tmp_path / "figures" / "performance" / f"{name}.md").read_text(encoding="utf-8")
        assert 'role="img" aria-label="' in drawing
        assert (tmp_path / "figures" / "performance" / f"{name}.png").is_file()
        shown = json.loads((tmp_path / "figures" / "performance" / f"{name}.json").read_text())
        assert shown["function"] == f"infra_lib.performance.cpu.{name}_figure"
        assert (tmp_path / shown["results"]).read_bytes() == (quick / file_of[name]).read_bytes()


def test_a_record_without_the_peer_says_not_available(quick, tmp_path) -> None:
    path = tmp_path / "records" / "benchmarks" / "attribution.json"
    path.parent.mkdir(parents=True)
    record = json.loads((quick / "records/benchmarks/attribution.json").read_text(encoding="utf-8"))
    for row in record["summary"]:
        row["peers"] = {}
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(DataError, match="is missing or torn: it lists the checksums"):
        write_performance(tmp_path, tmp_path / "out")
    write_manifest(tmp_path / "records")
    assert "not available" in write_performance(tmp_path, tmp_path / "out")["performance_ratios"]


def test_a_record_of_another_version_is_not_shown(quick, tmp_path) -> None:
    path = tmp_path / "records" / "benchmarks" / "attribution.json"
    path.parent.mkdir(parents=True)
    record = json.loads((quick / "records/benchmarks/attribution.json").read_text(encoding="utf-8"))
    for row in record["summary"]:
        row["kronfluence"] = row.pop("peers").get("kronfluence")
    path.write_text(json.dumps(record), encoding="utf-8")
    write_manifest(tmp_path / "records")
    fragments = write_performance(tmp_path, tmp_path / "out")
    assert fragments["performance_ratios"] == OLD
    assert fragments["performance_memory"] == ""


@pytest.mark.parametrize(
    ("measured", "asked", "row"),
    [
        (0.504, {"at_most": 0.5}, ["0.5 or less", "<strong>0.504</strong>", "missed"]),
        (0.52, {"at_most": 0.5}, ["0.5 or less", "<strong>0.52</strong>", "missed"]),
        (0.496, {"at_most": 0.5}, ["0.5 or less", "<strong>0.50</strong>", "met"]),
        (1.4996, {"at_least": 1.5}, ["1.5 or more", "<strong>1.4996</strong>", "missed"]),
        (1.5, {"at_least": 1.5}, ["1.5 or more", "<strong>1.50</strong>", "met"]),
    ],
)
def test_rounding_hides_no_missed_target(measured, asked, row) -> None:
    what, *shown, verdict = target_row("a & b", measured, **asked)
    assert html.unescape(what) == "a & b" != what
    assert [*shown, verdict.partition(">")[2].partition("<")[0]] == row


def test_lines_through_costs_find_what_is_fixed_and_what_grows() -> None:
    points = [
        {"what": what, "tokens": tokens, "targets": targets, "seconds": fixed + slope * tokens / 1000}
        for what, targets, fixed, slope in (("fitting", 0, 0.5, 0.25), ("token scores", 2, 0.0, 0.1))
        for tokens in (1000, 2000, 4000)
    ]
    points += [{"what": "token scores", "tokens": 4000, "targets": 8, "seconds": 99.0}]  # other targets
    points += [{"what": "position scores", "tokens": 1000, "targets": 2, "seconds": 1.0}]  # one amount
    lines = cost_lines(pd.DataFrame(points)).set_index("what")
    assert list(lines.index) == ["token scores", "fitting"]
    assert lines.loc["fitting", ["fixed", "per_thousand"]].tolist() == pytest.approx([0.5, 0.25])
    assert lines.loc["token scores", ["fixed", "per_thousand"]].tolist() == pytest.approx([0.0, 0.1])
    assert lines["r2"].tolist() == pytest.approx([1, 1])
    assert "fitting, 0.50 s and 0.250 s per thousand tokens (R² 1.0000, 3 amounts)" in cost_words(
        lines.reset_index()
    )
