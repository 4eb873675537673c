"""No file of examples crashes the reader: each line is an example, or an error that names it."""

from __future__ import annotations

import json

import pytest
from hostile import ANY_TEXT, TEXTS
from hypothesis import strategies as st
from trials import JSON, Trials, damaged

from infra_lib.errors import DataError
from infra_lib.examples import Example, from_frame, read_jsonl, read_lines, to_frame, write_jsonl

GOOD = {
    "id": "a",
    "domain": "math",
    "prompt": "2 + 2?",
    "response": "It is 4. Done.",
    "difficulty": 2,
    "category": "symbolic",
    "answer": "4",
    "sentences": [[0, 9, "step"], {"start": 9, "end": 14}],
}
LINE = json.dumps(GOOD).encode()


def fuzz(title: str):
    return pytest.mark.reliability(kind="fuzz", title=title)


def read_and_check(path, content: bytes) -> None:
    """Read a file; every filled line must come back as an example that can be stored, or an error."""
    path.write_bytes(content)
    try:
        entries = read_lines(path)
    except DataError as error:
        assert "holds no example" in str(error)
        assert not content.removeprefix(b"\xef\xbb\xbf").strip()
        return
    assert [number for number, _ in entries] == [
        n for n, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1) if line.strip()
    ]
    good = []
    for number, entry in entries:
        if isinstance(entry, DataError):
            assert entry.line == number
            assert str(entry).startswith(f"{path}, line {number}: ")
            assert len(str(entry)) < len(str(path)) + 500
            assert str(entry).isascii() or str(entry).encode("utf-8")
        else:
            good.append(entry)
    assert from_frame(to_frame(good)) == good
    if good:
        write_jsonl(path, good)
        assert read_jsonl(path) == good


@fuzz("files of examples: any bytes")
def test_any_bytes_are_examples_or_named_errors(request, tmp_path) -> None:
    path = tmp_path / "x.jsonl"
    Trials(request).search(st.binary(max_size=200), lambda content: read_and_check(path, content), 150)


@fuzz("files of examples: damaged lines")
def test_damaged_lines_are_examples_or_named_errors(request, tmp_path) -> None:
    path = tmp_path / "x.jsonl"
    Trials(request).search(
        damaged(LINE + b"\n" + LINE.replace(b'"a"', b'"b"') + b"\n"),
        lambda content: read_and_check(path, content),
        150,
    )


@fuzz("files of examples: any value in any field")
def test_any_value_in_any_field_is_an_example_or_a_named_error(request, tmp_path) -> None:
    path = tmp_path / "x.jsonl"
    spans = st.lists(st.tuples(st.integers(-2, 20), st.integers(-2, 20), JSON).map(list) | JSON, max_size=3)
    value = JSON | ANY_TEXT | spans
    changes = st.dictionaries(st.sampled_from([*GOOD, "tests", "question", "other"]), value, max_size=3)
    Trials(request).search(
        changes, lambda change: read_and_check(path, json.dumps(GOOD | change).encode()), 150
    )


CASES = {
    "deep nesting": b"[" * 200_000,
    "deep nesting in a field": b'{"id": ' + b'{"a":' * 100_000,
    "a number of 10,000 digits": LINE.replace(b": 2,", b": " + b"9" * 10_000 + b","),
    "a huge exponent": LINE.replace(b": 2,", b": 1e999999,"),
    "NaN": LINE.replace(b": 2,", b": NaN,"),
    "infinity": LINE.replace(b": 2,", b": -Infinity,"),
    "a whole number written as a fraction": LINE.replace(b": 2,", b": 2.0,"),
    "a key twice": LINE.replace(b'"id": "a"', b'"id": "a", "id": "b"'),
    "sentences that are a number": json.dumps(GOOD | {"sentences": 3}).encode(),
    "sentences that are text": json.dumps(GOOD | {"sentences": "abc"}).encode(),
    "a span that begins at a fraction": json.dumps(GOOD | {"sentences": [[0.5, 3]]}).encode(),
    "a span of true": json.dumps(GOOD | {"sentences": [[False, True]]}).encode(),
    "spans that overlap": json.dumps(GOOD | {"sentences": [[0, 9], [3, 12]]}).encode(),
    "spans in the wrong order": json.dumps(GOOD | {"sentences": [[9, 14], [0, 9]]}).encode(),
    "a span with a list for its kind": json.dumps(GOOD | {"sentences": [[0, 9, []]]}).encode(),
    "half a surrogate pair": json.dumps(GOOD | {"prompt": "\ud800"}).encode(),
    "half a surrogate pair in a kind": json.dumps(GOOD | {"sentences": [[0, 9, "\udfff"]]}).encode(),
    "half a surrogate pair in a key": json.dumps(GOOD)[:-1].encode() + b', "\\ud800": 1, "\\ud800": 1}',
    "invalid UTF-8": LINE.replace(b"Done", b"D\xffne"),
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "two objects on a line": LINE + LINE,
    "a list": b"[" + LINE + b"]",
    "white space only for a response": json.dumps(GOOD | {"response": "\u2003\n"}).encode(),
}


@pytest.mark.reliability(kind="bad input", title="files of examples: one bad line of each kind")
def test_each_kind_of_bad_line_is_named_and_its_neighbours_are_kept(request, tmp_path) -> None:
    path = tmp_path / "x.jsonl"

    def check(case: tuple[str, bytes]) -> None:
        name, line = case
        path.write_bytes(LINE.replace(b'"a"', b'"one"') + b"\n" + line + b"\n" + LINE + b"\n")
        (_, first), (_, problem), *rest = read_lines(path)
        assert isinstance(first, Example), name
        assert isinstance(problem, DataError), name
        assert problem.line == 2, name
        assert len(str(problem)) < 700, name
        assert name == "UTF-16" or isinstance(rest[-1][1], Example), name

    Trials(request).each(CASES.items(), check)


ACCEPTED = {
    "a byte order mark": b"\xef\xbb\xbf" + LINE,
    "Windows line ends": LINE + b"\r\n\r\n" + LINE.replace(b'"a"', b'"b"') + b"\r\n",
    "no line end": LINE,
    "NUL in the text": json.dumps(GOOD | {"prompt": "a\0b"}).encode(),
    "an unknown key": json.dumps(GOOD | {"note": [1, {"x": None}]}).encode(),
    "a line of five megabytes": json.dumps(GOOD | {"response": "word " * 1_000_000}).encode(),
    "ten thousand lines": b"\n".join(json.dumps(GOOD | {"id": str(i)}).encode() for i in range(10_000)),
}


@pytest.mark.reliability(kind="bad input", title="files of examples: odd but right")
def test_odd_files_that_are_right_are_read_whole(request, tmp_path) -> None:
    path = tmp_path / "x.jsonl"

    def check(case: tuple[str, bytes]) -> None:
        name, content = case
        path.write_bytes(content)
        assert len(read_jsonl(path)) == content.count(b'"id"'), name

    Trials(request).each(ACCEPTED.items(), check)


@pytest.mark.reliability(kind="bad input", title="files of examples: empty, or no file")
@pytest.mark.parametrize("content", [None, b"", b"\n\n", b" \r\n\t", b"\xef\xbb\xbf"])
def test_a_file_without_examples_is_named(tmp_path, content) -> None:
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"holds no example|no such file"):
        read_lines(path)


@fuzz("files of examples: hostile text survives storage")
def test_hostile_text_comes_back_character_for_character(request, tmp_path) -> None:
    path = tmp_path / "x.jsonl"

    def check(text: str) -> None:
        example = Example("a" + text, "math", text, text + ".", category=text or None, sentences=())
        write_jsonl(path, [example])
        assert read_jsonl(path) == [example]
        to_frame([example]).to_parquet(path)
        import pandas as pd

        assert from_frame(pd.read_parquet(path)) == [example]

    trials = Trials(request)
    trials.each(TEXTS, check)
    trials.search(ANY_TEXT, check, 40)


@fuzz("tables of examples of another schema")
def test_a_table_of_another_schema_is_a_named_error(request) -> None:
    import pandas as pd

    columns = st.dictionaries(st.sampled_from(["id", "domain", "prompt", "response", "sentences", "x"]), JSON)

    def check(row: dict) -> None:
        try:
            examples = from_frame(pd.DataFrame([row]))
        except DataError as error:
            assert "misses" in str(error) or "line 1" in str(error)
        else:
            assert all(isinstance(value, str) for ex in examples for value in (ex.id, ex.prompt, ex.response))

    Trials(request).search(columns, check, 80)
