"""Nothing that a model writes becomes markup, and every cell reaches its table."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra_lib.examples import to_frame
from infra_lib.markup import visible
from infra_lib.tables import (
    badge,
    escape,
    example_gallery,
    html_table,
    influential_examples,
    interval,
    named,
    of_runs,
    p_value,
)

HOSTILE = [
    "<script>alert(1)</script>",
    "</div><img src=x onerror=alert(1)>",
    "**bold** _it_ `code` [a](javascript:alert(1))",
    "```{include} /etc/passwd\n```",
    ":::{raw} html\n<b>x</b>\n:::",
    "$\\input{/etc/passwd}$ \\(x\\) $$y$$",
    "\x1b[31mred\x1b[0m \x00 \x07",
    "{{ config }} {% raw %} {ref}`x`",
    "&lt;b&gt; &amp;",
    "a\n\n\nb\r\nc\rd",
    "\u202egnp.exe",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_and_not_read(text: str) -> None:
    shown = escape(text)
    assert not re.search(r"[<>`*_$\\{}\[\]\x00-\x1f]", shown.replace("<br>", ""))
    assert html.unescape(shown.replace("<br>", "\n")) == visible(text)


@pytest.mark.reliability(kind="fuzz", title="any text in a table's cell")
@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_no_text_leaves_a_bare_special_character_or_line_end(text: str) -> None:
    assert not re.search(r"[<>`*_$\\{}\[\]|~#\n\r\"']", re.sub(r"<br>|&#\d+;", "", escape(text)))


def test_gallery_shows_hostile_examples_as_text(splits) -> None:
    frame = to_frame(splits.train)
    frame["prompt"] = "<script>alert(1)</script>\n\n# heading"
    page = example_gallery(frame)
    assert "<script" not in page
    assert "\n\n" not in page
    assert page.count("example-title") == frame.groupby(["domain", "category"]).ngroups


def test_gallery_of_examples_of_which_some_have_a_category_names_none_where_there_is_none(splits) -> None:
    frame = to_frame([replace(splits.train[0], category=None), *splits.train[1:]])
    page = example_gallery(frame)
    assert "nan" not in page
    assert f"{named(splits.train[0].domain)}, difficulty" in page


def test_influential_examples_escape_both_texts() -> None:
    import pandas as pd

    frame = pd.DataFrame(
        [
            {
                "target": "math",
                "side": "helps",
                "z": 2.0,
                "domain": "code",
                "difficulty": 1,
                "prompt": "<b>",
                "response": "<i>",
            }
        ]
    )
    page = influential_examples(frame)
    assert "<b>" not in page
    assert "<i>" not in page


def test_tables_hold_every_cell_and_no_blank_line() -> None:
    page = html_table(["a", "b"], [["1", "2"], ["3", "4"]], label="x")
    assert re.findall(r"<td[^>]*>(\d)</td>", page) == ["1", "2", "3", "4"]
    assert "\n\n" not in page


def test_numbers_are_written_alike() -> None:
    assert interval(0.1234, -0.05, 0.3, signed=True) == "+0.123 [−0.050, +0.300]"
    assert p_value(0.0001) == "&lt; 0.001"
    assert "computed in this build" in badge("computed")


def test_one_run_is_one_run() -> None:
    assert [of_runs(number) for number in (0, 1, 6)] == ["0 runs", "1 run", "6 runs"]
