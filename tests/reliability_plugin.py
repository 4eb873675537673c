"""Collects what the tests of faults, bad inputs, attacks and fuzzing found, for the book's reliability page.

A test joins in by a marker and may say more about itself::

    @pytest.mark.reliability(kind="fault", title="the run is killed while it trains")
    def test_…(record_property):
        record_property("outcome", "the next run ends in the same results")
        record_property("inputs", 200)    # by default hypothesis' own count, or 1

At the end of a session the results go to ``_build/reliability.json``, merged by test id: a
session that ran every marked test replaces the file, any other one only adds to it. With
``--record-reliability`` a session that ran them all writes ``records/reliability.json`` too; one of
some tests puts theirs in the place of the recorded ones, and the record says when.
"""

from __future__ import annotations

import fcntl
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra_lib.checksums import list_anew
from infra_lib.errors import DataError
from infra_lib.files import read_sealed, write_sealed
from infra_lib.provenance import environment
from infra_lib.reliability import KINDS, source_digest_of

MARKED = pytest.StashKey[list[str]]()
"""Ids of all marked tests that a session collected, before any were deselected."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-reliability",
        action="store_true",
        help="write records/reliability.json from this session, or renew in it the tests that it ran",
    )
    parser.addoption(
        "--faults", type=int, default=0, metavar="N", help="kill runs N more times than usual (make faults)"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Collector(config), "reliability-collector")


def takes_all_tests(config: pytest.Config) -> bool:
    """Return whether a session was asked for every test below ``testpaths``."""
    named = {str(Path(argument).resolve()) for argument in config.args}
    return named in (
        {str((config.rootpath / path).resolve()) for path in config.getini("testpaths")},
        {str(config.rootpath.resolve())},
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = []
    for item in items:
        # xdist's loadgroup may have put the group behind the id.
        group = next((f"@{mark.args[0]}" for mark in item.iter_markers("xdist_group") if mark.args), "@")
        if mark := item.get_closest_marker("reliability"):
            told = dict(mark.kwargs)
            if mark.args or set(told) != {"kind", "title"} or told["kind"] not in KINDS or not told["title"]:
                raise pytest.UsageError(
                    f"{item.nodeid}: reliability needs kind= (one of {', '.join(KINDS)}) and title="
                )
            told["id"] = item.nodeid.removesuffix(group)
            item.user_properties.append(("reliability", told))
            marked.append(told["id"])
    config.stash[MARKED] = marked


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    # Hypothesis counts the inputs that it tried; tests need not count again.
    counted = re.findall(r"(\d+) passing\b", getattr(item, "hypothesis_statistics", "") or "")
    named = {name for name, _ in item.user_properties}
    if call.when == "call" and counted and "reliability" in named and "inputs" not in named:
        item.user_properties.append(("inputs", sum(map(int, counted))))
    return (yield)


class Collector:
    """Gathers reports in the process that the user started; with xdist they come from its workers."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.tests: dict[str, dict[str, Any]] = {}
        self.started = time.perf_counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = dict(report.user_properties)
        if "reliability" not in told:
            return
        about = dict(told["reliability"])
        test = self.tests.setdefault(about.pop("id"), {**about, "result": "held", "seconds": 0.0})
        test["seconds"] = round(test["seconds"] + report.duration, 2)
        test["inputs"] = int(told.get("inputs", 1))
        test.setdefault("outcome", "")
        if "outcome" in told:
            test["outcome"] = str(told["outcome"])
        test["when"] = datetime.now(UTC).isoformat(timespec="seconds")
        if report.skipped:
            test["result"] = "not run"
            test["outcome"] = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped")
        elif report.failed:
            test["result"] = "failed"

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        option = self.config.option
        whole = (
            takes_all_tests(self.config)
            and option.markexpr in ("", "reliability")
            and not option.keyword
            and not getattr(option, "lf", False)
            and not option.collectonly
            and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
            and not session.shouldstop
            and not session.shouldfail
        )
        if self.tests:
            self.write(self.config.rootpath / "_build" / "reliability.json", whole=whole)
        if option.record_reliability:
            path = self.config.rootpath / "records" / "reliability.json"
            if whole:
                self.write(path, whole=True)
            elif path.is_file():
                self.renew(path)
            else:
                raise pytest.UsageError(
                    "the first --record-reliability needs every marked test: no paths, no -k, no -x"
                )

    def renew(self, path: Path) -> None:
        """Put this session's results in the place of recorded ones, and note which and when."""
        record = read_sealed(path)
        record["tests"] |= self.tests
        note = {"environment": environment(), "when": datetime.now(UTC).isoformat(timespec="seconds")}
        record["again"] = [*record.get("again", []), note | {"tests": sorted(self.tests)}]
        write_sealed(path, record)
        list_anew(path.parent, path.name)

    def write(self, path: Path, *, whole: bool) -> None:
        """Write the session's results, over those of earlier sessions where this one was not whole."""
        for folder in (path.parent, self.config.rootpath / "_build"):
            folder.mkdir(exist_ok=True)
        record = {
            "environment": environment(),
            "sources": source_digest_of(self.config.rootpath),
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self.started, 1),
            "whole": whole,
            "tests": self.tests,
        }
        with (self.config.rootpath / "_build" / ".reliability.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole:
                try:
                    kept = read_sealed(path)
                    record["tests"] = {**kept["tests"], **self.tests}
                    record["whole"] = kept["whole"] and kept["sources"] == record["sources"]
                except (OSError, DataError):
                    pass
            write_sealed(path, record)
        if path.parent.name == "records":
            list_anew(path.parent, path.name)
