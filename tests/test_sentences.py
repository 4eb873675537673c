"""Sentences cover their text, keep code whole, and follow the written rule."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra_lib.sentences import split_sentences


def pieces(text: str) -> list[str]:
    return [text[s.start : s.end] for s in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("One. Two! Three?", ["One. ", "Two! ", "Three?"]),
        ("It is 3.5 now. Done.", ["It is 3.5 now. ", "Done."]),
        ('He said "no." Then left.', ['He said "no." ', "Then left."]),
        ("First\n\nSecond", ["First\n\n", "Second"]),
        ("See e.g. this. Next.", ["See e.g. this. ", "Next."]),
        ("Plan. \n```python\nx = 1. \ny\n```\nEnd.", ["Plan. \n", "```python\nx = 1. \ny\n```\n", "End."]),
        ("```\nnever closed. a", ["```\nnever closed. a"]),
        ("答えは四。次。", ["答えは四。", "次。"]),
    ],
)
def test_rule(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


@pytest.mark.reliability(kind="fuzz", title="sentences cover any text, in order")
@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_sentences_cover_any_text_in_order(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert all(pieces(text))


@pytest.mark.reliability(kind="fuzz", title="fences of programs in any arrangement")
@given(st.lists(st.sampled_from(["```", "```python\n", "a. ", "\n", " ", "x", "?!", "```\n"]), max_size=60))
@settings(max_examples=300, deadline=None)
def test_fences_in_any_arrangement_keep_the_text(parts: list[str]) -> None:
    text = "".join(parts)
    assert "".join(pieces(text)) == text


@pytest.mark.parametrize("unit", ["a. ", "\n", "```\n", ".", "a" * 10, "\n```"])
def test_time_grows_with_length_alone(unit: str) -> None:
    def seconds(count: int) -> float:
        started = time.perf_counter()
        split_sentences(unit * count)
        return time.perf_counter() - started

    seconds(1_000)
    assert seconds(100_000) < 5
