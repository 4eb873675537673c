"""Escaped text, read as Markdown and then as HTML the way the book reads it, is the text again."""

from __future__ import annotations

import unicodedata

import pytest
import yaml
from bs4 import BeautifulSoup
from hostile import ANY_TEXT, TEXTS
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from trials import Trials

from infra_lib.markup import active_markup, attribute, escape, visible


@pytest.fixture(scope="module")
def parser(root) -> MarkdownIt:
    """Return the Markdown parser with the extensions that the book enables."""
    extensions = yaml.safe_load((root / "_config.yml").read_text())["parse"]["myst_enable_extensions"]
    config = MdParserConfig(enable_extensions=set(extensions))
    return create_md_parser(config, RendererHTML)


def text_of(page: str) -> str:
    soup = BeautifulSoup(page, "html.parser")
    for line_end in soup.find_all("br"):
        line_end.replace_with("\n")
    return soup.find(id="x").get_text()


PLACES = {
    "block": '<div><p id="x">{}</p></div>\n',
    "cell": '<table>\n<tr><td id="x">{}</td></tr>\n</table>\n',
    "inline": 'before <span id="x">{}</span> after\n',
    "line of its own": '<span id="x">\n{}\n</span>\n',
    "list": '- item <b id="x">{}</b>\n',
}


@pytest.mark.reliability(kind="fuzz", title="the book's text: escaped, parsed, and the same again")
@pytest.mark.parametrize("place", PLACES)
def test_escaped_text_is_the_text_again(request, parser, place: str) -> None:
    def check(text: str) -> None:
        page = parser.render(PLACES[place].format(escape(text)))
        shown = text_of(page)
        if place in ("inline", "line of its own", "list"):
            assert shown.strip("\n") == visible(text).strip("\n") or shown.split() == visible(text).split()
        elif text.strip():  # (BeautifulSoup keeps no element that holds white space alone)
            assert shown == visible(text)
        assert active_markup(page) is None

    trials = Trials(request)
    trials.each(TEXTS, check)
    trials.search(ANY_TEXT, check, 80)


@pytest.mark.reliability(kind="fuzz", title="the book's attributes: escaped, parsed, and the same again")
def test_escaped_attributes_are_the_text_again(request, parser) -> None:
    def check(text: str) -> None:
        page = parser.render(f'before <span id="x" title="{attribute(text)}">y</span>\n')
        found = BeautifulSoup(page, "html.parser").find(id="x")
        assert found["title"] == visible(text)
        assert found.get_text() == "y"

    trials = Trials(request)
    trials.each(TEXTS, check)
    trials.search(ANY_TEXT, check, 100)


@pytest.mark.reliability(kind="fuzz", title="what cannot be seen is named")
def test_nothing_invisible_is_left(request) -> None:
    def check(text: str) -> None:
        shown = visible(text)
        shown.encode("utf-8")
        kinds = {unicodedata.category(c) for c in shown if c not in "\n\t\u200c\u200d"}
        assert not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
        assert visible(shown) == shown

    trials = Trials(request)
    trials.each(["\ud800", *map(chr, range(0x300)), *(chr(c) for c in range(0x2000, 0x2070)), *TEXTS], check)
    trials.search(st.text(st.characters(), max_size=40), check, 200)


def test_joiners_stay_where_scripts_need_them() -> None:
    for text in ("👩\u200d💻", "می\u200cخواهم", "क्\u200dष"):
        assert visible(text) == text
    assert visible("a\u200db") == "a⟨U+200D⟩b"


def test_line_ends_are_kept_and_terminal_codes_shown() -> None:
    assert escape("a\r\nb\rc\n\nd") == "a<br>b<br>c<br><br>d"
    assert visible("\x1b[31mred") == "␛[31mred"
    assert visible("\u202egnp.exe") == "⟨U+202E⟩gnp.exe"
