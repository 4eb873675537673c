"""What is wrong with a data set is named, with what to do; half a download is never used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import FIXTURES, copied, rows_of, write_rows

from infra_lib.errors import DataError, InfraError, ParameterError
from infra_lib.examples import from_frame, to_frame
from infra_lib.sources.registry import Loaded, load


def refused(folder: Path, name: str = "gsm8k", **options) -> str:
    with pytest.raises(InfraError) as caught:
        load(name, folder, **options)
    assert isinstance(caught.value, DataError | ParameterError)
    return str(caught.value)


def gsm8k_shards(folder: Path, count: int = 3) -> list[Path]:
    rows = rows_of("gsm8k", "main", "test.jsonl")
    return [
        write_rows(folder / f"test-{index:05d}-of-{count:05d}.parquet", [rows[index]])
        for index in range(count)
    ]


def test_half_a_download_is_never_used(tmp_path: Path) -> None:
    waiting = tmp_path / ".cache" / "huggingface" / "download" / "x.incomplete"
    gsm8k_shards(tmp_path)
    waiting.parent.mkdir(parents=True)
    waiting.write_bytes(b"PAR1")
    assert "half a download" in refused(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    gsm8k_shards(tmp_path)[1].unlink()
    message = refused(tmp_path)
    assert "test-00001-of-00003.parquet" in message
    assert "2 of 3 shards" in message


@pytest.mark.parametrize("keep", [1, 40, -20])
def test_a_torn_parquet_file_is_named(tmp_path: Path, keep: int) -> None:
    path = gsm8k_shards(tmp_path)[2]
    path.write_bytes(path.read_bytes()[:keep])
    message = refused(tmp_path)
    assert path.name in message
    assert "torn or no parquet" in message


def test_a_parquet_file_with_a_hole_in_it_is_named(tmp_path: Path) -> None:
    rows = [{"question": f"{n} " * 200, "answer": f"#### {n}"} for n in range(600)]
    path = write_rows(tmp_path / "test.parquet", rows)
    raw = bytearray(path.read_bytes())
    raw[20 : len(raw) // 2] = b"\xff" * (len(raw) // 2 - 20)
    path.write_bytes(raw)
    assert "is torn after row 0" in refused(tmp_path)


def test_pointers_and_empty_files_are_no_data(tmp_path: Path) -> None:
    path = gsm8k_shards(tmp_path)[0]
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refused(tmp_path)
    path.write_bytes(b"")
    assert "is empty" in refused(tmp_path)


@pytest.mark.parametrize("ending", ["jsonl.gz", "json.gz"])
def test_a_torn_archive_is_named(tmp_path: Path, ending: str) -> None:
    path = write_rows(tmp_path / f"test.{ending}", rows_of("gsm8k", "main", "test.jsonl"))
    path.write_bytes(path.read_bytes()[:-12])
    assert "is torn" in refused(tmp_path)


def test_half_a_json_list_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "test.json", rows_of("gsm8k", "main", "test.jsonl"))
    path.write_text(path.read_text()[:-40])
    assert "half a download" in refused(tmp_path)


def test_fewer_rows_than_the_card_says_is_half_a_download(tmp_path: Path) -> None:
    folder = copied("open_thoughts", tmp_path)
    path = folder / "metadata" / "train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert "has 2 rows in train, its card says 4" in refused(folder, "open_thoughts")
    assert load("open_thoughts", folder, limit=1).report.kept == 1


def test_missing_columns_are_named_with_the_nearest_and_all_that_is_there(tmp_path: Path) -> None:
    rows = [
        {"questions": r["question"], "solution": r["answer"]} for r in rows_of("gsm8k", "main", "test.jsonl")
    ]
    for ending in ("jsonl", "parquet"):
        folder = tmp_path / ending
        write_rows(folder / f"test.{ending}", rows)
        message = refused(folder)
        assert "misses column question (nearest: questions, solution); answer;" in message
        assert "needed: question, answer" in message
        assert "there: questions, solution" in message
        assert "misses column" in refused(folder, skip_bad=True)


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "test.json", [])
    assert "split test is empty" in refused(tmp_path)
    (tmp_path / "none").mkdir()
    assert "holds no data file" in refused(tmp_path / "none")


def test_unknown_splits_and_configurations_come_with_the_choices(tmp_path: Path) -> None:
    assert "split is 'dev': it must be one of test, train" in refused(FIXTURES / "gsm8k", split="dev")
    open_thoughts = FIXTURES / "open_thoughts"
    assert "one of default, metadata" in refused(open_thoughts, "open_thoughts", config="meta")
    assert "split is 'test': it must be one of train" in refused(open_thoughts, "open_thoughts", split="test")
    folder = copied("mbpp", tmp_path)
    assert "config is 'all': it must be one of full, sanitized" in refused(folder, "mbpp", config="all")


def test_a_name_that_is_neither_folder_nor_hub_name(tmp_path: Path) -> None:
    assert "no such folder or file" in refused(tmp_path / "missing")
    assert "no such folder or file" in refused(Path("data"))
    (tmp_path / "rows.csv").write_text("question,answer\n")
    assert "a file that ends in .parquet" in refused(tmp_path / "rows.csv")


BAD_ROWS = [
    ("gsm8k", "test.jsonl", {"answer": "no final line"}, "last line must be ####"),
    ("gsm8k", "test.jsonl", {"question": None}, "question is None; it must be text"),
    ("gsm8k", "test.jsonl", {"question": "half \ud800"}, "half a surrogate pair"),
    ("math500", "test.jsonl", {"level": 7}, "level is 7"),
    ("mbpp", "test.jsonl", {"test_list": []}, "test_list is empty"),
    ("mbpp", "test.jsonl", {"test_list": ["assert ("]}, "a test is no Python"),
    ("mbpp", "test.jsonl", {"task_id": "eleven"}, "task_id is 'eleven'"),
    ("humaneval", "test.jsonl", {"entry_point": "f(); g"}, "the name of a function"),
    ("humaneval", "test.jsonl", {"test": "x = 1"}, "defines no function check"),
    ("livecodebench", "test.jsonl", {"difficulty": "brutal"}, "difficulty is 'brutal'"),
    ("livecodebench", "test.jsonl", {"contest_date": "last May"}, "contest_date is 'last May'"),
    ("livecodebench", "test.jsonl", {"public_test_cases": "[{}]"}, "a test case is {}"),
    ("livecodebench", "test.jsonl", {"metadata": "{"}, "metadata is no JSON"),
    ("livecodebench", "test.jsonl", {"metadata": '{"func_name": "f"}'}, "the problem is functional"),
    ("bespoke_stratos", "train.jsonl", {"conversations": []}, "turns from nobody"),
    ("bespoke_stratos", "train.jsonl", {"conversations": "hello"}, "must be a list of turns"),
    ("open_thoughts", "train.jsonl", {"deepseek_solution": " "}, "deepseek_solution is empty"),
]


@pytest.mark.parametrize(("name", "file", "change", "message"), BAD_ROWS)
def test_a_row_that_cannot_be_parsed_is_named_or_collected(
    tmp_path: Path, name, file, change, message
) -> None:
    folder = {"gsm8k": "main", "mbpp": "full", "open_thoughts": "metadata", "bespoke_stratos": "data"}
    good = rows_of(name, *filter(None, [folder.get(name)]), file)[0]
    bad = {**good, **change}
    # Another id than the good row's, so that only the change can be what is wrong.
    bad |= {key: f"{bad[key]}9" for key in ("question_id", "unique_id") if key in bad}
    write_rows(tmp_path / file, [good, bad])
    with pytest.raises(DataError, match=rf"{file}, line 2: cannot be parsed") as caught:
        load(name, tmp_path)
    assert message in str(caught.value)
    loaded = load(name, tmp_path, skip_bad=True)
    assert loaded.report.kept == 1
    assert [error.line for error in loaded.report.bad] == [2]
    assert "1 unusable" in str(loaded.report)


def test_lines_that_are_no_json_are_named_by_number(tmp_path: Path) -> None:
    good = json.dumps(rows_of("gsm8k", "main", "test.jsonl")[0])
    (tmp_path / "test.jsonl").write_text(f"{good}\n\n{good[:30]}\n[1]\n")
    assert "line 3: is no JSON object" in refused(tmp_path)
    report = load("gsm8k", tmp_path, skip_bad=True).report
    assert [error.line for error in report.bad] == [3, 4]


def test_a_torn_trace_is_a_bad_row(tmp_path: Path) -> None:
    row = rows_of("bespoke_stratos", "data", "train.jsonl")[0]
    row["conversations"][1]["value"] = row["conversations"][1]["value"][:120]
    write_rows(tmp_path / "train.jsonl", [row])
    assert "a torn trace" in refused(tmp_path, "bespoke_stratos")


def test_an_id_twice_is_named(tmp_path: Path) -> None:
    row = rows_of("humaneval", "test.jsonl")[0]
    write_rows(tmp_path / "test.jsonl", [row, row])
    assert "'humaneval/HumanEval/900' occurs twice" in refused(tmp_path, "humaneval")


def test_columns_that_nobody_asks_for_do_no_harm(tmp_path: Path) -> None:
    folder = copied("math500", tmp_path)
    rows = [{**row, "extra": {"deep": [1]}} for row in rows_of("math500", "test.jsonl")]
    shutil.rmtree(folder)
    write_rows(folder / "test-00000-of-00001.parquet", rows)
    assert load("math500", folder).examples == load("math500", FIXTURES / "math500").examples


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["[", "{}", "[1]"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
SOUND = [
    ("bespoke_stratos", "data/train.jsonl"),
    ("open_thoughts", "metadata/train.jsonl"),
    ("gsm8k", "main/test.jsonl"),
    ("math500", "test.jsonl"),
    ("aime24", "train.jsonl"),
    ("mbpp", "full/test.jsonl"),
    ("mbpp", "sanitized/test.jsonl"),
    ("humaneval", "test.jsonl"),
    ("livecodebench", "test.jsonl"),
]


@pytest.mark.reliability(kind="fuzz", title="rows of published data sets: any value in a column")
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_stands_in_a_column_the_row_is_used_or_named(data: st.DataObject) -> None:
    name, file = data.draw(st.sampled_from(SOUND))
    row = data.draw(st.sampled_from(rows_of(name, *file.split("/"))))
    column = data.draw(st.sampled_from(sorted(row)))
    row = {**row, column: data.draw(VALUES)}
    with TemporaryDirectory() as folder:
        path = write_rows(Path(folder) / Path(file).name, [row])
        # Any other error than one that names the file is a fault of the parser.
        loaded = load_or_none(name, path)
        if loaded is not None:
            assert loaded.report.kept == 1
            assert from_frame(to_frame(loaded.examples)) == loaded.examples


def load_or_none(name: str, path: Path) -> Loaded | None:
    try:
        return load(name, path, split=path.name.split(".")[0])
    except DataError as error:
        if str(path) not in str(error):
            raise
        return None
