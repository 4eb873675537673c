"""``infra finetune``: weights from lines or files, nothing lost in --out, errors in one sentence."""

from __future__ import annotations

import json
import sys

import pandas as pd
import pytest

from infra_lib import cli
from infra_lib.errors import DataError, ParameterError
from infra_lib.examples import read_jsonl, write_jsonl
from infra_lib.files import file_digest
from infra_lib.finetune import FinetuneConfig, WeightedTrainer, finetune
from infra_lib.finetune.command import FinetuneOptions, finetune_files, read_weights

CONFIG = FinetuneConfig(epochs=1, batch_size=4, learning_rate=1e-2)


@pytest.fixture
def train(tmp_path, splits):
    path = tmp_path / "train.jsonl"
    write_jsonl(path, splits.train[:8])
    return path


def with_key(path, key: str, values) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, value in zip(lines, values, strict=True):
        if value is not None:
            line[key] = value
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_weights_come_from_the_lines_or_a_file_and_are_equal_without(train, tmp_path) -> None:
    examples = read_jsonl(train)
    assert read_weights(train, examples, None) is None
    values = [1.0, 2, 3, 4, 5, 6, 7, 8.5]
    frame = pd.DataFrame({"id": [e.id for e in examples], "weight": values}).iloc[::-1]
    frame.to_csv(tmp_path / "w.csv", index=False)
    frame.to_parquet(tmp_path / "w.parquet")
    frame.to_json(tmp_path / "w.jsonl", orient="records", lines=True)
    for name in ("w.csv", "w.parquet", "w.jsonl"):
        assert read_weights(train, examples, str(tmp_path / name)) == values
    with_key(train, "weight", values)
    assert read_weights(train, examples, None) == values
    with_key(train, "influence", values[::-1])
    assert read_weights(train, examples, "influence") == values[::-1]


@pytest.mark.reliability(kind="bad input", title="infra finetune: a weight that is missing or no number")
@pytest.mark.parametrize(
    ("source", "values", "message"),
    [
        (None, [1, 1, None, 1, 1, 1, 1, 1], "line 3: has no 'weight'"),
        ("score", [None] * 8, "line 1: has no 'score'"),
        (None, [1, "2", 1, 1, 1, 1, 1, 1], r"line 2: weight of '.*' is '2'"),
        (None, [1, True, 1, 1, 1, 1, 1, 1], "line 2.*must be a number"),
    ],
)
def test_a_weight_that_is_missing_or_no_number_is_named_by_its_line(train, source, values, message) -> None:
    with_key(train, "weight", values)
    with pytest.raises(DataError, match=message):
        read_weights(train, read_jsonl(train), source)


@pytest.mark.reliability(kind="bad input", title="infra finetune: a file of weights that does not fit")
def test_a_weights_file_that_does_not_fit_is_named(train, tmp_path) -> None:
    examples, path = read_jsonl(train), tmp_path / "w.csv"
    whole = pd.DataFrame({"id": [e.id for e in examples], "weight": 1.0})
    wrong = {
        "no column 'weight'": whole.rename(columns={"weight": "w"}),
        "no weight for 1 examples": whole.iloc[1:],
        "ids that no example has": pd.concat([whole, pd.DataFrame({"id": ["x"], "weight": [1.0]})]),
        "ids must be unique": pd.concat([whole, whole.iloc[:1]]),
    }
    for message, frame in wrong.items():
        frame.to_csv(path, index=False)
        with pytest.raises(DataError, match=message):
            read_weights(train, examples, str(path))
    with pytest.raises(DataError, match="no such file"):
        read_weights(train, examples, str(tmp_path / "none.csv"))


@pytest.mark.parametrize("weight", [-1.0, 0, float("nan")])
def test_weights_that_cannot_be_are_refused_before_training(model_folder, train, tmp_path, weight) -> None:
    with_key(train, "weight", [weight] + [1.0] * 7)
    with pytest.raises(ParameterError, match="weights"):
        finetune_files(FinetuneOptions(str(model_folder), train, tmp_path / "out", CONFIG), progress=False)
    assert not (tmp_path / "out").exists()


def test_the_command_trains_what_the_library_trains_and_says_from_what(
    model_folder, train, tmp_path, splits, monkeypatch
) -> None:
    weights = [1.0, 2, 3, 4, 5, 6, 7, 8]
    with_key(train, "weight", weights)
    options = FinetuneOptions(str(model_folder), train, tmp_path / "out", CONFIG, device="cpu")
    folder = finetune_files(options, progress=False)
    record = json.loads((folder / "run.json").read_text())
    assert record["inputs"] == {str(train): file_digest(train)}
    assert record["environment"]["versions"]["torch"]
    direct = finetune(
        model_folder,
        splits.train[:8],
        CONFIG,
        seed=0,
        folder=tmp_path / "direct",
        weights=weights,
        progress=False,
    )
    assert file_digest(folder / "model.safetensors") == file_digest(direct / "model.safetensors")
    monkeypatch.setattr(WeightedTrainer, "compute_loss", lambda *_, **__: pytest.fail("trained again"))
    assert finetune_files(options, progress=False) == folder


@pytest.mark.reliability(kind="bad input", title="infra finetune: a folder with something else in it")
def test_a_folder_with_something_else_in_it_is_left_alone(model_folder, train, tmp_path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    options = FinetuneOptions(str(model_folder), train, out, CONFIG)
    with pytest.raises(ParameterError, match="new, empty, or of an earlier"):
        finetune_files(options, progress=False)
    (out / "thesis.txt").unlink()
    (out / "run.json").write_text('{"key": "another"}')
    with pytest.raises(ParameterError, match="another folder"):
        finetune_files(options, progress=False)
    assert (out / "run.json").is_file()


@pytest.mark.reliability(kind="bad input", title="infra finetune: a command line with a mistake")
def test_bad_input_on_the_command_line_is_one_sentence(
    model_folder, train, tmp_path, monkeypatch, capsys
) -> None:
    command = ["infra", "finetune", "--model", str(model_folder), "--train", str(train)]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "out"), "--precision", "half"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("infra: parameter precision is 'half': it must be one of")


def test_the_accelerate_file_is_one_that_accelerate_reads(root) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(root / "workflow" / "accelerate_fsdp.yaml"))
    assert config.distributed_type == "FSDP"
    assert config.mixed_precision == "no"
    assert config.fsdp_config["fsdp_version"] == 2
