"""Hidden test cases are read, and nothing that comes with them is ever run."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import pickletools
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra_lib.sources.private_cases import decode_cases, text_of_pickle
from infra_lib.sources.rows import BadRow

CASES = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]


def packed(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw)).decode()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_one_text_is_read(protocol: int) -> None:
    text = json.dumps(CASES * 40) + "ü\N{SNOWMAN}"
    assert text_of_pickle(pickle.dumps(text, protocol=protocol)) == text
    assert decode_cases(packed(pickle.dumps(json.dumps(CASES), protocol=protocol))) == CASES


def test_plain_json_is_read() -> None:
    assert decode_cases(json.dumps(CASES)) == CASES
    assert decode_cases("[]") == []


@pytest.mark.reliability(kind="fuzz", title="LiveCodeBench's private cases: any text")
@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    assert text_of_pickle(pickle.dumps(text)) == text


class Runs:
    """Unpickling this runs a command."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path) -> None:
    mark = tmp_path / "ran"
    hostile = pickle.dumps(Runs(str(mark)))
    with pytest.raises(BadRow, match="STACK_GLOBAL, which is not text: refused"):
        decode_cases(packed(hostile))
    assert not mark.exists()
    pickle.loads(hostile)  # the same bytes, run by who trusts them
    assert mark.exists()


@pytest.mark.parametrize(
    "thing", [["a"], ("a", "b"), {"a": "b"}, 5, b"bytes", None, True, bytearray(b"x"), {1}, 2.5, str.upper]
)
def test_a_pickle_of_anything_else_is_refused(thing) -> None:
    with pytest.raises(BadRow, match="refused"):
        decode_cases(packed(pickle.dumps(thing)))


@pytest.mark.reliability(kind="bad input", title="LiveCodeBench's private cases: a pickle that holds none")
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (pickle.dumps("a")[:-1], "holds no pickle"),
        (pickle.dumps("a") + pickle.dumps("b"), "more than one text"),
        (pickle.dumps("a") + b"\x00", "more than one text"),
        (b"", "holds no pickle"),
        (b"\x80\x04.", "more than one text"),
        (b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"x.", "holds no pickle"),
        (b"Vtext\n0Vtext\n.", "POP"),
        (b"cos\nsystem\n(S'true'\ntR.", "GLOBAL"),
        (b"Pevil\n.", "PERSID"),
        (pickle.dumps("no json"), "no JSON"),
        (pickle.dumps("[" * 100_000), "no JSON"),
        (pickle.dumps('{"a": 1}'), "must be a list"),
        (pickle.dumps('[{"input": 1, "output": "", "testtype": "stdin"}]'), "a test case is"),
        (pickle.dumps('[{"input": "", "output": "", "testtype": "odd"}]'), "stdin or functional"),
    ],
)
def test_what_is_no_pickle_of_cases_is_named(raw: bytes, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        decode_cases(packed(raw))


@pytest.mark.reliability(kind="bad input", title="LiveCodeBench's private cases: wrong layers")
def test_layers_that_are_not_what_they_must_be_are_named() -> None:
    good = packed(pickle.dumps(json.dumps(CASES)))
    for text, message in [
        ("not base64!", "neither JSON nor base64"),
        (base64.b64encode(b"not zlib").decode(), "no zlib data"),
        (base64.b64encode(base64.b64decode(good)[:-6]).decode(), "torn"),
        ("[{", "no JSON"),
    ]:
        with pytest.raises(BadRow, match=message):
            decode_cases(text)
    with pytest.raises(BadRow, match="must be text"):
        decode_cases(None)  # type: ignore[arg-type]


def test_a_bomb_is_stopped_before_it_unfolds() -> None:
    bomb = packed(b"\x00" * 50_000_000)
    assert len(bomb) < 100_000
    with pytest.raises(BadRow, match="unpacks to more than 1,000,000 bytes"):
        decode_cases(bomb, largest=1_000_000)


@pytest.mark.reliability(kind="fuzz", title="LiveCodeBench's private cases: any bytes")
@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_crash_the_reader(raw: bytes) -> None:
    for data in (raw, pickletools.optimize(pickle.dumps(raw.decode("latin-1"))) + raw):
        with contextlib.suppress(BadRow):
            decode_cases(packed(data))
