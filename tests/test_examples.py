"""Examples survive storage, and bad files are named by line."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra_lib.errors import DataError
from infra_lib.examples import (
    Example,
    Sentence,
    check_disjoint,
    from_frame,
    read_jsonl,
    scan_jsonl,
    to_frame,
    write_jsonl,
)

GOOD = {"id": "a", "domain": "math", "prompt": "p", "response": "r"}
text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@pytest.mark.reliability(kind="fuzz", title="examples written and read back")
@given(
    st.lists(
        st.builds(Example, id=text, domain=text, prompt=text, response=text),
        min_size=1,
        unique_by=lambda e: e.id,
    )
)
@settings(max_examples=60, deadline=None)
def test_jsonl_round_trip_keeps_every_character(tmp_path_factory, examples) -> None:
    path = tmp_path_factory.mktemp("round") / "x.jsonl"
    write_jsonl(path, examples)
    assert read_jsonl(path) == examples


def test_frame_round_trip_keeps_examples(splits) -> None:
    assert from_frame(to_frame(splits.train)) == splits.train


def test_frame_round_trip_keeps_absent_fields() -> None:
    examples = [
        Example("a", "math", "p", "r", sentences=(Sentence(0, 1),)),
        Example("b", "code", "p", "r", 3, date="2024-08-01"),
    ]
    assert from_frame(to_frame(examples)) == examples


@pytest.mark.reliability(kind="bad input", title="a date that is no day")
@pytest.mark.parametrize("day", ["2024-13-01", "20240801", "last May", ""])
def test_a_date_is_a_day_or_is_named(tmp_path, day: str) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [Example("a", "code", "p", "r", date="2024-08-01")])
    assert read_jsonl(path)[0].date == "2024-08-01"
    path.write_text(json.dumps(GOOD | {"date": day}) + "\n")
    with pytest.raises(DataError, match=f"date is {day!r}; it must be a day such as 2024-08-01"):
        read_jsonl(path)


@pytest.mark.reliability(kind="bad input", title="a line of examples that cannot be read")
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"\xff\xfe", "invalid UTF-8"),
        (b"{", "not a JSON object"),
        (b"[1]", "must be a JSON object"),
        (json.dumps({"id": "b"}).encode(), "misses domain, prompt, response"),
        (json.dumps(GOOD | {"response": " "}).encode(), "response is empty"),
        (json.dumps(GOOD | {"prompt": 3}).encode(), "prompt is 3; it must be text"),
        (json.dumps(GOOD | {"id": None}).encode(), "id is null"),
        (json.dumps(GOOD | {"difficulty": 9}).encode(), "difficulty is 9"),
        (json.dumps(GOOD | {"difficulty": True}).encode(), "difficulty is True"),
        (json.dumps(GOOD | {"sentences": [[0, 99]]}).encode(), "does not lie in the response"),
        (json.dumps(GOOD | {"sentences": ["x"]}).encode(), "does not lie in the response"),
        (json.dumps(GOOD | {"response": "\ud800"}).encode(), "surrogate"),
        (json.dumps(GOOD).encode(), "occurs twice"),
    ],
)
def test_a_bad_line_is_named_and_the_good_ones_are_kept(tmp_path, line: bytes, problem: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(DataError, match=problem) as caught:
        read_jsonl(path)
    assert "line 3" in str(caught.value)
    good, problems = scan_jsonl(path)
    assert [example.id for example in good] == ["a"]
    assert len(problems) == 1


@pytest.mark.reliability(kind="bad input", title="a missing or empty file of examples")
def test_missing_and_empty_files_are_named(tmp_path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no example"):
        read_jsonl(tmp_path / "empty.jsonl")


@pytest.mark.reliability(kind="fuzz", title="any bytes as a file of examples")
@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_no_bytes_crash_the_reader(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.jsonl"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        scan_jsonl(path)


@pytest.mark.reliability(kind="bad input", title="a training set that shares questions with the test")
def test_shared_questions_are_found_in_whatever_words() -> None:
    a, b = Example("a", "m", "one", "r", question="q"), Example("b", "m", "two", "r", question="q")
    with pytest.raises(DataError, match="shares 1 questions with test"):
        check_disjoint(train=[a], test=[b])
    with pytest.raises(DataError, match="occurs 2 times"):
        check_disjoint(train=[a, a])
