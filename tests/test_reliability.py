"""The reliability page counts what the tests recorded, and its record is whole."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from reliability_plugin import MARKED, takes_all_tests

from infra_lib.checksums import write_manifest
from infra_lib.errors import DataError
from infra_lib.files import read_sealed, write_sealed
from infra_lib.markup import active_markup
from infra_lib.reliability import (
    KINDS,
    grouped,
    read_reliability,
    reliability_page,
    sandbox_speed,
    source_digest_of,
)


def entry(kind: str, title: str, result: str = "held", inputs: int = 1, outcome: str = "") -> dict:
    return {"kind": kind, "title": title, "result": result, "inputs": inputs, "outcome": outcome}


TESTS = {
    "a.py::test[one]": entry("bad input", "a bad <b>line</b>", inputs=3),
    "a.py::test[two]": entry("bad input", "a bad <b>line</b>", outcome="named"),
    "b.py::test[fork bomb]": entry("attack", "a hostile program", outcome="killed"),
    "b.py::test[sleep]": entry("attack", "a hostile program", outcome="timeout"),
    "c.py::kill": entry("fault", "a kill", inputs=6),
    "d.py::skipped": entry("fault", "a full disk", "not run", outcome="no mount here"),
    "e.py::broken": entry("fuzz", "any bytes", "failed", inputs=200),
}


def record(**changes) -> dict:
    base = {
        "environment": {"commit": "0123456789abcdef", "device": "a processor"},
        "sources": "x",
        "when": "2026-01-02T03:04:05+00:00",
        "seconds": 90.0,
        "whole": True,
        "tests": TESTS,
    }
    return base | changes


@pytest.fixture
def project(tmp_path):
    for name in ("records", "_build", "tests"):
        (tmp_path / name).mkdir()
    (tmp_path / "tests" / "test_x.py").write_text("x = 1\n")
    write_sealed(tmp_path / "records" / "reliability.json", record())
    write_manifest(tmp_path / "records")
    return tmp_path


def test_cases_of_a_test_are_one_row_and_every_attack_is_its_own() -> None:
    rows = {row["title"]: row for row in grouped(TESTS)}
    assert len(rows) == 6
    assert (rows["a bad <b>line</b>"]["cases"], rows["a bad <b>line</b>"]["inputs"]) == (2, 4)
    assert rows["a hostile program: fork bomb"]["outcomes"] == ["killed"]
    assert rows["a full disk"]["inputs"] == 0


def test_an_attack_whose_case_is_called_after_it_is_named_once() -> None:
    tests = {"b.py::test[20000-empty-files]": entry("attack", "20,000 empty files", outcome="output")}
    assert [row["title"] for row in grouped(tests)] == ["20,000 empty files"]


def test_every_count_on_the_page_comes_from_the_record(project) -> None:
    page = reliability_page(project)
    assert "recorded run" in page
    assert "7 tests" in page
    found = re.findall(r'<div class="value">(.*?)</div>.*?<div class="what">(.*?)</div>', page, re.DOTALL)
    assert {what: value for value, what in found} == {
        KINDS["fault"]: "1 of 2",
        KINDS["bad input"]: "2 of 2",
        KINDS["attack"]: "2 of 2",
        KINDS["fuzz"]: "0 of 1",
    }
    assert "6 inputs tried" in page
    assert "<b>line" not in page
    assert "1 failed" in page
    assert "1 not run" in page
    assert active_markup(page) is None  # or the book would refuse it


def test_the_page_shows_this_builds_tests_only_where_they_are_whole_and_of_these_sources(project) -> None:
    built = project / "_build" / "reliability.json"
    sources = source_digest_of(project)
    for changes, kind in [
        ({"sources": sources}, "computed"),
        ({"sources": sources, "whole": False}, "recorded"),
        ({"sources": "older"}, "recorded"),
    ]:
        write_sealed(built, record(**changes))
        assert read_reliability(project)[1] == kind
    write_sealed(built, record(sources=sources))
    (project / "tests" / "test_x.py").write_text("x = 2\n")
    assert read_reliability(project)[1] == "recorded"


@pytest.mark.reliability(kind="fault", title="a changed byte in the record of these tests")
def test_a_changed_record_is_not_shown_and_a_missing_one_is_said(project) -> None:
    path = project / "records" / "reliability.json"
    path.write_bytes(path.read_bytes().replace(b"held", b"hold", 1))
    with pytest.raises(DataError, match=r"reliability\.json"):
        reliability_page(project)
    path.unlink()
    assert "not available" in reliability_page(project)


def test_the_kept_record_names_the_very_tests_that_are_marked(root, request) -> None:
    if not takes_all_tests(request.config):
        pytest.skip("needs a session of all tests")
    path = root / "records" / "reliability.json"
    assert path.exists(), "no run is recorded: `make reliability` writes the record"
    assert active_markup(reliability_page(root)) is None
    recorded = set(read_sealed(path)["tests"])
    assert recorded == set(request.config.stash[MARKED]), "the record is old: `make reliability`"


SUITE = """
import pytest
from hypothesis import given, settings, strategies as st

@pytest.mark.reliability(kind="fault", title="a kill")
@pytest.mark.xdist_group("one")
def test_kill(record_property):
    record_property("inputs", 6)
    record_property("outcome", "the same results")

@pytest.mark.reliability(kind="fuzz", title="any number")
@given(st.integers())
@settings(max_examples=40, derandomize=True, database=None)
def test_fuzz(n):
    pass

@pytest.mark.reliability(kind="bad input", title="no")
@pytest.mark.parametrize("x", [1, 2])
def test_bad(x):
    assert x == 1

@pytest.mark.reliability(kind="fault", title="skipped")
def test_skipped():
    pytest.skip("no mount here")

def test_unmarked():
    pass
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2", "--dist", "loadgroup"]])
def test_a_session_records_its_marked_tests_and_a_part_of_it_only_adds(root, tmp_path, workers) -> None:
    import os
    import subprocess
    import sys

    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_s.py").write_text(SUITE)
    (tmp_path / "tests" / "conftest.py").write_text("pytest_plugins = ['reliability_plugin']\n")
    settings = '[tool.pytest.ini_options]\ntestpaths = ["tests"]\nmarkers = ["reliability(kind, title): x"]\n'
    (tmp_path / "pyproject.toml").write_text(settings)
    paths = [str(root / "tests"), str(root), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def session(*arguments: str, status: int = 1) -> dict:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr  # one of them fails
        return read_sealed(tmp_path / "_build" / "reliability.json")

    whole = session("--record-reliability")
    assert whole["whole"]
    tests = {name.split("::")[1]: test for name, test in whole["tests"].items()}
    assert {name: test["result"] for name, test in tests.items()} == {
        "test_kill": "held",
        "test_fuzz": "held",
        "test_bad[1]": "held",
        "test_bad[2]": "failed",
        "test_skipped": "not run",
    }
    assert (tests["test_kill"]["inputs"], tests["test_kill"]["outcome"]) == (6, "the same results")
    assert tests["test_fuzz"]["inputs"] == 40
    assert tests["test_skipped"]["outcome"] == "Skipped: no mount here"
    assert (tmp_path / "records" / "SHA256SUMS").is_file()
    if workers:
        return
    (tmp_path / "tests" / "test_s.py").write_text(SUITE + "\n# changed\n")
    part = session("-k", "bad")
    assert set(part["tests"]) == set(whole["tests"])
    assert not part["whole"]  # most of it speaks of other sources
    (tmp_path / "tests" / "test_s.py").write_text(SUITE.replace("assert x == 1", "assert x"))
    kept = read_sealed(tmp_path / "records" / "reliability.json")
    session("-k", "bad", "--record-reliability", status=0)
    renewed = read_sealed(tmp_path / "records" / "reliability.json")
    assert {test["result"] for name, test in renewed["tests"].items() if "bad" in name} == {"held"}
    assert set(renewed["tests"]) == set(kept["tests"])
    assert {key: renewed[key] for key in ("when", "seconds", "sources", "environment")} == {
        key: kept[key] for key in ("when", "seconds", "sources", "environment")
    }
    assert [len(note["tests"]) for note in renewed["again"]] == [2]
    assert "2 of them were run again at commit" in reliability_page(tmp_path)


@pytest.mark.reliability(kind="fault", title="a changed byte in the sandbox's record")
def test_the_cost_of_the_sandbox_is_shown_as_recorded_and_a_changed_record_is_not(root, tmp_path) -> None:
    assert "not available" in sandbox_speed(tmp_path)
    shutil.copytree(root / "records" / "benchmarks", tmp_path / "records" / "benchmarks")
    write_manifest(tmp_path / "records")
    record = tmp_path / "records" / "benchmarks" / "sandbox.json"
    shown = sandbox_speed(tmp_path)
    rates = json.loads(record.read_text())["programs_per_second_by_workers"].values()
    fastest = max(rate["sandbox"] for rate in rates)
    assert f"{fastest:.1f}" in shown
    record.write_text(record.read_text().replace("1", "2", 1))
    with pytest.raises(DataError, match=r"sandbox\.json"):
        sandbox_speed(tmp_path)
