"""Results that are torn, or of another schema, are no results; what reads them says so and does not crash."""

from __future__ import annotations

import contextlib
import json

import pandas as pd
import pytest
import torch
from hypothesis import strategies as st
from trials import JSON, Trials, damaged

from infra_lib.curvature.factors import LayerFactors
from infra_lib.curvature.store import load_partition, save_partition
from infra_lib.errors import DataError, InfraError, ModelError
from infra_lib.layout import ROOT_VARIABLE, damaged_files, data_digest, read_provenance
from infra_lib.pipeline import resolved_study, summary
from infra_lib.reading import load_json, load_table
from infra_lib.stage import open_stage
from infra_lib.study import Study


def fuzz(title: str):
    return pytest.mark.reliability(kind="fuzz", title=title)


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """Return the folder of a finished stage of a study ``t``."""
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    stage = open_stage("01_data", {"study": "t", "seed": 3})
    stage.write_table("train", pd.DataFrame({"x": range(50), "y": ["text"] * 50}))
    stage.write_json("facts", {"a": [1, 2.5, None]})
    stage.write_summary(["a line"])
    stage.close()
    return stage.folder


def use(tmp_path, folder) -> None:
    """Do with a record what the pipeline does."""
    record = read_provenance(folder)
    if record is not None:
        assert isinstance(record, dict)
        damaged_files(folder, record)
        data_digest(record)
    summary(tmp_path, "t")


@fuzz("provenance records: damaged, or other JSON")
def test_a_provenance_record_is_whole_or_none(request, tmp_path, finished) -> None:
    path = finished / "provenance.json"
    content = path.read_bytes()
    record = json.loads(content)

    def check(text: bytes) -> None:
        path.write_bytes(text)
        use(tmp_path, finished)

    trials = Trials(request)
    trials.search(damaged(content), check, 100)
    trials.search(JSON.map(lambda value: json.dumps(value).encode()), check, 100)
    changes = st.dictionaries(st.sampled_from(sorted(record)), JSON, min_size=1, max_size=2)
    trials.search(changes.map(lambda change: json.dumps(record | change).encode()), check, 100)


@fuzz("a study's kept parameters: damaged, or other JSON")
def test_kept_parameters_are_a_study_or_a_named_error(request, tmp_path) -> None:
    folder = tmp_path / "_build" / "studies" / "t"
    folder.mkdir(parents=True)
    content = json.dumps(Study(study="t").model_dump(), indent=1).encode()

    def check(text: bytes) -> None:
        (folder / "study.json").write_bytes(text)
        with contextlib.suppress(InfraError):
            assert isinstance(resolved_study(tmp_path, "t"), Study)

    trials = Trials(request)
    trials.search(damaged(content), check, 150)
    trials.search(JSON.map(lambda value: json.dumps(value).encode()), check, 80)


@fuzz("parquet files: damaged")
def test_a_damaged_table_is_a_table_or_a_named_error(request, finished) -> None:
    path = finished / "data" / "train.parquet"
    content = path.read_bytes()

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            assert isinstance(load_table(path), pd.DataFrame)
        except DataError as error:
            assert str(path) in str(error)

    trials = Trials(request)
    trials.search(damaged(content), check, 250)
    trials.each([b"", b"PAR1", b"PAR1PAR1", content[:-1], content[4:], b"\0" * 100], check)


@fuzz("JSON results: damaged")
def test_a_damaged_json_result_is_a_value_or_a_named_error(request, tmp_path) -> None:
    path = tmp_path / "x.json"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            load_json(path)
        except DataError as error:
            assert str(path) in str(error)

    trials = Trials(request)
    trials.search(damaged(b'{"a": [1, 2.5, null], "b": "text"}') | st.binary(max_size=40), check, 150)
    trials.each([b"[" * 100_000, b"9" * 10_000, b"\xff", b""], check)


@fuzz("curvature factors: damaged")
def test_damaged_factors_are_refused_by_name(request, tmp_path) -> None:
    torch.manual_seed(0)
    square, line = torch.rand(3, 3), torch.rand(3)
    layers = {"mlp": LayerFactors(square, square, line, line, square, square)}
    path = tmp_path / "part.safetensors"
    save_partition(path, "key", layers, {"mlp": {"residual": 0.0}})
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            found = load_partition(path, "key", ["mlp"])
        except (DataError, ModelError) as error:
            assert str(path) in str(error)
        else:
            assert found is None or isinstance(found[0]["mlp"], LayerFactors)

    trials = Trials(request)
    trials.search(damaged(content[:header]).map(lambda head: head + content[header:]), check, 250)
    huge = (2**63).to_bytes(8, "little") + content[8:]
    trials.each([b"", content[:7], content[:-1], content + b"x", huge, b"\0" * 8, b"\xff" * 64], check)
