"""Two studies are the same byte for byte, apart from times and provenance, or the difference is named."""

from __future__ import annotations

import html
import json
import math

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from infra_lib import compare as comparing
from infra_lib.cli import app
from infra_lib.compare import compare, table_distance
from infra_lib.errors import DataError, ParameterError
from infra_lib.layout import STAGES
from infra_lib.pipeline import locked
from infra_lib.stage import open_stage
from infra_lib.study import make_study


@pytest.fixture
def project(tmp_path, monkeypatch, root):
    studies = tmp_path / "notebooks" / "studies"
    studies.mkdir(parents=True)
    (studies / "t.yaml").write_text("study: t\n")
    (tmp_path / "records").mkdir()
    monkeypatch.setenv("INFRA_PROJECT", str(tmp_path))
    return tmp_path


def finish(project, study: str, **changes: float):
    """Write a study whose stages hold one table each."""
    with locked(project, make_study({"study": study})):
        pass  # writes the study's parameters
    for stage in STAGES:
        opened = open_stage(stage, {"study": study})
        values = [1.0, changes.get(f"s{stage[:2]}", 2.0), float("nan")]
        opened.write_table("x", pd.DataFrame({"id": ["a", "b", "c"], "value": values}))
        opened.write_fragment("table", "<p>the same</p>")
        if stage == "06_summary":
            opened.write_fragment("provenance", f"<p>{study} ran at another time</p>")
        opened.close()
    return project / "_build" / "studies" / study


def test_a_file_that_names_its_study_is_the_same_under_another_name_and_no_other_way(project) -> None:
    a, b = finish(project, "one"), finish(project, "two")
    for folder, value in ((a, 1), (b, 1)):
        (folder / "01_data" / "data" / "about.json").write_text(
            json.dumps({"study": folder.name, "value": value, "part": {"study": "inner"}})
        )
    assert "01_data/data/about.json" in compare(a, b).identical
    (b / "01_data" / "data" / "about.json").write_text(
        json.dumps({"study": "two", "value": 2, "part": {"study": "inner"}})
    )
    assert compare(a, b).differences == {"01_data/data/about.json": "differs"}


def test_the_same_results_under_two_names_are_identical(project) -> None:
    found = compare(finish(project, "one"), finish(project, "two"))
    assert not found.differences
    assert len(found.identical) == 2 * len(STAGES)


def test_a_changed_number_is_named_with_its_size(project) -> None:
    found = compare(finish(project, "one"), finish(project, "two", s04=2.0 + 2e-6))
    assert list(found.differences) == ["04_example_influence/data/x.parquet"]
    assert found.largest == pytest.approx(1e-6, rel=1e-3)
    assert found.within(2e-6)
    assert not found.within(5e-7)


def test_a_missing_file_and_a_changed_text_are_beyond_every_tolerance(project) -> None:
    one, two = finish(project, "one"), finish(project, "two")
    (two / "01_data" / "data" / "x.parquet").unlink()
    found = compare(one, two)
    assert found.differences == {"01_data/data/x.parquet": "is in the first study only"}
    assert not found.within(1e9)


@pytest.mark.reliability(kind="bad input", title="comparing studies of which one lacks a stage")
def test_a_stage_that_one_of_them_has_not_run_is_named(project) -> None:
    import shutil

    one, two = finish(project, "one"), finish(project, "two")
    shutil.rmtree(two / "04_example_influence")
    with pytest.raises(DataError, match=r"two/04_example_influence: has not run"):
        compare(one, two)
    shutil.rmtree(one / "04_example_influence")
    assert len(compare(one, two).identical) == 2 * (len(STAGES) - 1)


@pytest.mark.parametrize(
    "other",
    [
        pd.DataFrame({"v": [1.0, 2.0]}),
        pd.DataFrame({"w": [1.0, 2.0, 3.0]}),
        pd.DataFrame({"v": [1, 2, 3]}),
        pd.DataFrame({"v": [1.0, 2.0, np.nan]}),
    ],
)
def test_tables_of_another_shape_name_or_type_have_no_distance(other) -> None:
    assert table_distance(pd.DataFrame({"v": [1.0, 2.0, 3.0]}), other) == math.inf


def test_ranks_may_change_places_where_scores_are_compared() -> None:
    one = pd.DataFrame({"score": [1.0, 0.999999, 0.5], "rank": [1, 2, 3]})
    two = pd.DataFrame({"score": [0.999999, 1.0, 0.5], "rank": [2, 1, 3]})
    assert table_distance(one, two) == pytest.approx(1e-6)
    assert table_distance(one[["rank"]], two[["rank"]]) == math.inf


def test_only_the_named_tables_are_held_loosely() -> None:
    found = comparing.Comparison(["a"], {"b": "differs"}, largest=1e-5, loose=0.03)
    assert found.within(1e-4)
    assert not comparing.Comparison([], {}, largest=1e-3, loose=0.0).within(1e-4)
    assert not comparing.Comparison([], {}, largest=0.0, loose=0.2).within(1e-4)


def test_a_recorded_tolerance_and_layout_are_shown(project) -> None:
    finish(project, "one")
    finish(project, "two", s05=2.00001)
    options = ["--record", "--label", "threads", "--tolerance", "1e-4"]
    assert CliRunner().invoke(app, ["compare", "one", "two", *options]).exit_code == 0
    assert "(allowed: 0.0001)" in html.unescape(comparing.determinism(project))


def test_the_command_says_and_records_what_it_found(project) -> None:
    finish(project, "one")
    finish(project, "two", s05=2.5)
    runner = CliRunner()
    assert "not available" in comparing.determinism(project)
    done = runner.invoke(app, ["compare", "one", "two", "--record", "--label", "with <b>two</b> threads"])
    assert done.exit_code == 1
    assert "05_reweighting_arms/data/x.parquet differs by up to 2.0e-01" in done.output
    assert runner.invoke(app, ["compare", "one", "two", "--tolerance", "0.3"]).exit_code == 0
    page = comparing.determinism(project)
    assert "recorded run" in page
    assert "<b>" not in page
    assert "2.0e-01" in html.unescape(page)
    finish(project, "two")
    assert runner.invoke(app, ["compare", "one", "two", "--record"]).exit_code == 0
    assert len(comparing.read_comparisons(project)) == 2
    assert "nothing" in comparing.determinism(project)


@pytest.mark.reliability(kind="fault", title="a changed byte in the record of compared runs")
def test_a_changed_record_is_not_shown(project) -> None:
    finish(project, "one")
    CliRunner().invoke(app, ["compare", "one", "one", "--record"])
    path = project / "records" / comparing.RECORD
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(DataError, match=r"determinism\.json: is not the file that was recorded"):
        comparing.determinism(project)


@pytest.mark.reliability(kind="bad input", title="comparing with a study that has not run")
def test_a_study_that_has_not_run_is_named(project) -> None:
    finish(project, "one")
    with pytest.raises(ParameterError, match="one that has run: one"):
        comparing.find_study(project, "two")
