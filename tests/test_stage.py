"""A stage is whole or absent, reads only what is intact, and records where it comes from."""

from __future__ import annotations

import html
import json
import os
import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from infra_lib.errors import DataError, InfraError, ParameterError
from infra_lib.stage import open_stage, project_root, read_provenance


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "notebooks" / "studies").mkdir(parents=True)
    monkeypatch.setenv("INFRA_PROJECT", str(tmp_path))
    return tmp_path


def finish(project, stage: str, **parameters):
    opened = open_stage(stage, {"study": "t", **parameters})
    opened.write_table("x", pd.DataFrame({"a": [1, 2]}))
    opened.write_json("y", {"b": 1})
    opened.write_summary([f"{stage} is done"])
    opened.write_note("prompts", {"form": "plain text"})
    opened.close()
    return opened.folder


def test_what_is_written_is_read_by_the_next_stage(project) -> None:
    finish(project, "01_data", seed=7)
    finish(project, "02_base_model")
    stage = open_stage("03_finetune_evaluate", {"study": "t", "epochs": 2})
    assert stage.read_table("01_data", "x")["a"].tolist() == [1, 2]
    assert stage.read_json("01_data", "y") == {"b": 1}
    assert stage.records()["01_data"]["notes"] == {"prompts": {"form": "plain text"}}
    assert (stage.params.seed, stage.params.epochs) == (7, 2)


def test_nothing_is_there_until_the_stage_is_closed(project) -> None:
    stage = open_stage("01_data", {"study": "t"})
    stage.write_table("x", pd.DataFrame({"a": [1]}))
    final = project / "_build" / "studies" / "t" / "01_data"
    assert not final.exists()
    stage.close()
    assert (final / "data" / "x.parquet").is_file()


@pytest.mark.reliability(kind="fault", title="a stage abandoned half-way")
def test_an_abandoned_attempt_leaves_the_old_results(project) -> None:
    folder = finish(project, "01_data")
    before = (folder / "data" / "x.parquet").read_bytes()
    stage = open_stage("01_data", {"study": "t"})
    stage.write_table("x", pd.DataFrame({"a": [9]}))
    assert (folder / "data" / "x.parquet").read_bytes() == before


def test_provenance_names_all_that_it_should(project) -> None:
    record = read_provenance(finish(project, "01_data", seed=3))
    assert record["seeds"]["seed"] == 3
    assert record["environment"]["versions"]["torch"]
    assert record["environment"]["commit"]
    assert record["environment"]["device"]
    assert record["seconds"] >= 0
    assert set(record["files"]) == {"data/x.parquet", "data/y.json"}
    assert record["summary"] == ["01_data is done"]


def test_tables_carry_their_study_and_parameters(project) -> None:
    import pyarrow.parquet as pq

    folder = finish(project, "01_data", seed=5)
    note = json.loads(pq.read_schema(folder / "data" / "x.parquet").metadata[b"infra"])
    assert (note["study"], note["stage"], note["parameters"]["seed"]) == ("t", "01_data", 5)


@pytest.mark.reliability(kind="fault", title="a changed byte in a table of an earlier stage")
def test_a_changed_byte_upstream_is_caught_before_use(project) -> None:
    folder = finish(project, "01_data")
    finish(project, "02_base_model")
    path = folder / "data" / "x.parquet"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"x\.parquet: is missing or changed"):
        open_stage("03_finetune_evaluate", {"study": "t"})


@pytest.mark.reliability(kind="bad input", title="a stage opened before those that it reads")
def test_a_stage_that_has_not_run_is_named_with_what_to_do(project) -> None:
    with pytest.raises(ParameterError, match=r"01_data has run: do `infra run 01 --study t`"):
        open_stage("03_finetune_evaluate", {"study": "t"})


@pytest.mark.reliability(kind="bad input", title="a notebook that reads from a stage it does not declare")
def test_reading_from_an_undeclared_stage_is_refused(project) -> None:
    stage = open_stage("01_data", {"study": "t"})
    with pytest.raises(ParameterError, match="stage"):
        stage.read_table("05_reweighting_arms", "x")


def test_figures_come_with_data_alternative_text_and_fragment(project) -> None:
    stage = open_stage("01_data", {"study": "t"})
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    shown = stage.write_figure(
        "f", figure, data=pd.DataFrame({"a": [1]}), alt='A <line> "up"', caption="A line."
    )
    stage.close()
    folder = stage.folder / "figures"
    assert {path.suffix for path in folder.iterdir()} == {".svg", ".png", ".csv", ".json", ".md"}
    record = json.loads((folder / "f.json").read_text(encoding="utf-8"))
    assert record["results"] == "data/01_data/figure_f.parquet"
    assert (stage.folder / "data" / "figure_f.parquet").is_file()
    (label,) = re.findall(r'aria-label="([^"]*)"', shown._repr_html_())
    assert html.unescape(label) == 'A <line> "up"'
    assert "<" not in label
    assert "currentColor" in shown._repr_html_()
    fragment = (folder / "f.md").read_text()
    assert "\n\n" not in fragment[: fragment.index("</figure>")]


def test_the_same_figure_is_the_same_bytes(project) -> None:
    contents = []
    for _ in range(2):
        stage = open_stage("01_data", {"study": "t"})
        figure, axes = plt.subplots()
        axes.plot([1, 3, 2])
        stage.write_figure("f", figure, data=pd.DataFrame({"a": [1]}), alt="a", caption="c")
        stage.close()
        contents.append((stage.folder / "figures" / "f.svg").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.reliability(kind="bad input", title="a command outside of any project")
def test_a_folder_without_a_project_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("INFRA_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InfraError, match="no project"):
        project_root()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_an_error(project) -> None:
    project.chmod(0o500)
    with pytest.raises(OSError, match="Permission"):
        open_stage("01_data", {"study": "t"})


def test_a_stage_records_its_peak_memory_and_the_table_shows_it() -> None:
    from infra_lib.device import peak_bytes
    from infra_lib.tables import provenance_table

    before = peak_bytes()
    block = bytearray(200 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    after = peak_bytes()
    assert after["process"] >= before["process"]
    assert after["process"] > len(block)
    assert after["device"] == 0
    record = {
        "seeds": {},
        "parameters": {},
        "environment": {"commit": "0" * 40, "device": "d"},
        "seconds": 1.0,
    }
    record |= {
        "started": "2030-01-02T03:04:05",
        "peak_bytes": {"process": 2**30, "worker": 3 * 2**30, "device": 0},
    }
    assert "3.0 GiB" in provenance_table({"01_data": record})
    assert "GPU 2.0 GiB" in provenance_table(
        {"x": record | {"peak_bytes": {"process": 0, "worker": 0, "device": 2**31}}}
    )
    assert "not available" in provenance_table({"x": {k: v for k, v in record.items() if k != "peak_bytes"}})
