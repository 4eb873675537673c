"""A small book full of hostile text, really built: the text is there to read, and nothing of it is obeyed."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))
from book_browser import CHROMIUM, serving
from hostile import TEXTS

from infra_lib import pages, style, tables
from infra_lib.checksums import write_manifest
from infra_lib.errors import DataError, InfraError
from infra_lib.markup import active_markup, visible
from infra_lib.published import check_fragments, published_notebook
from infra_lib.stage import ShownFragment

pytestmark = pytest.mark.xdist_group("hostile")
SHOWN = [text[:300] for text in TEXTS if text.strip()]


def fragments() -> dict[str, str]:
    """Return fragments made by the library's own functions, with hostile text wherever text can come in."""
    rows = [
        {
            "id": text, "target": text, "side": text, "z": 1.0, "domain": text, "difficulty": 2,
            "category": text, "prompt": text, "response": text, "mean": 0.1, "low": 0.0, "high": 0.2, "n": 1,
            "sentences": json.dumps([[0, len(text), text]]), "difference": 0.1, "n_hard": 1, "n_easy": 1,
        }
        for text in SHOWN
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    records = {
        text: {
            "seeds": {text: 1},
            "parameters": {text: 1},
            "environment": {"commit": text, "device": text, "system": text, "versions": {text: text}},
            "started": text,
            "seconds": 1.0,
            "study": text,
        }
        for text in SHOWN
    }
    lines = [pages.status(text, {"06_summary": records[text]}).split("## ")[0] for text in SHOWN]
    return {
        "cells": tables.html_table(SHOWN, [[tables.escape(text)] for text in SHOWN], label="Cells"),
        "blocks": tables.html_table(
            SHOWN, [[tables.escape(text) for text in SHOWN]], label="Blocks", stacked=True
        ),
        "labels": "".join(tables.html_table(["x"], [["1"]], label=text) for text in SHOWN),
        "badges": " ".join(tables.badge("computed", text) for text in SHOWN),
        "gallery": tables.example_gallery(frame),
        "influential": tables.influential_examples(frame),
        "transfer": tables.transfer_table(frame) + tables.hard_minus_easy_table(frame),
        "provenance": tables.provenance_table(records),
        "versions": tables.versions_table({text: text for text in SHOWN}),
        "status": "\n".join(lines),
    }


def notebook(outputs: list[dict]) -> dict:
    cell = {"cell_type": "code", "execution_count": 1, "id": "a", "metadata": {}, "source": "x"}
    return {
        "cells": [
            {"cell_type": "markdown", "id": "t", "metadata": {}, "source": "# Outputs"},
            {**cell, "outputs": outputs},
        ],
        "metadata": {"papermill": {"exception": None}, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def shown(kind: str, text: str) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": {kind: text, "text/plain": "x"}}


def draw(folder: Path) -> style.ShownFigure:
    style.apply()
    figure = Figure()
    axes = figure.subplots()
    # Labels hold one line; a line of three thousand letters has no place in a drawing.
    axes.set(title=SHOWN[0], xlabel="$\\input{x}$ <script>", ylabel="--> <script>window.__pwned=21</script>")
    axes.plot([0, 1], label="</svg><script>window.__pwned=22</script> $\\unclosed{")
    axes.legend()
    alt, caption = " \n\n".join(SHOWN), "\n\n".join(SHOWN)
    return style.save_figure(
        folder, "01_data", "x", figure, data=pd.DataFrame({"x": [1]}), alt=alt, caption=caption
    )


@pytest.fixture(scope="module")
def book(root, tmp_path_factory) -> Path:
    """Return the built pages."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copy2(root / "_config.yml", folder)
    for name in ("_ext", "_static"):
        shutil.copytree(root / "book" / name, folder / "book" / name)
    shutil.copy2(root / "book" / "references.bib", folder / "book")
    results = folder / "book" / "results"
    drawn = draw(results / "figures" / "01_data")
    made = fragments()
    for name, text in made.items():
        (results / f"{name}.md").write_text(text, encoding="utf-8")
    check_fragments(results)
    frame = pd.DataFrame({"text": SHOWN})
    outputs = [
        shown("text/html", ShownFragment(made["cells"])._repr_html_()),
        shown("text/html", drawn._repr_html_()),
        shown("text/html", frame.to_html()),
        {"output_type": "stream", "name": "stdout", "text": "\n".join(SHOWN)},
        shown("text/markdown", "```{raw} html\n<script>window.__pwned=23</script>\n```"),
        shown("application/javascript", "window.__pwned = 24"),
        shown("text/latex", "\\href{javascript:window.__pwned=25}{x}"),
    ]
    raw = folder / "raw.ipynb"
    raw.write_text(json.dumps(notebook(outputs)), encoding="utf-8")
    (results / "01_data.ipynb").write_text(published_notebook(folder, "01_data", raw), encoding="utf-8")
    write_manifest(results)
    includes = [f"## Part {i}\n\n```{{include}} results/{name}.md\n```\n" for i, name in enumerate(made)]
    includes.append("## Figure\n\n```{include} results/figures/01_data/x.md\n```\n")
    includes.append("## Numbered\n\n```{build-figure} 01_data/x\n:name: fig-x\n```\n\n{numref}`fig-x`\n")
    (folder / "book" / "index.md").write_text("# Hostile\n\n" + "\n".join(includes), encoding="utf-8")
    toc = "format: jb-book\nroot: index\nchapters:\n  - file: results/01_data\n"
    (folder / "book" / "_toc.yml").write_text(toc)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "book"]
    command += ["--config", "_config.yml", "--path-output", ".", "--all", "-W", "-n", "--keep-going"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "_build" / "html"


@functools.cache
def article(book: Path, name: str) -> BeautifulSoup:
    """Return what a page shows between the theme's own parts."""
    page = BeautifulSoup((book / name).read_text(encoding="utf-8"), "html.parser")
    return page.find("article").find("section")


def text_of(element) -> str:
    element = copy.copy(element)
    for line_end in element.find_all("br"):
        line_end.replace_with("\n")
    return element.get_text()


@pytest.mark.reliability(kind="bad input", title="hostile text in the book's tables, really built")
@pytest.mark.parametrize("page", ["index.html", "results/01_data.html"])
def test_every_cell_shows_its_text_to_the_letter(record_property, book, page) -> None:
    record_property("inputs", len(SHOWN))
    table = article(book, page).find("div", attrs={"aria-label": "Cells"})
    cells = [text_of(cell) for cell in table.find("tbody").find_all("td")]
    assert cells == [visible(text) for text in SHOWN]
    heads = [text_of(cell) for cell in table.find("thead").find_all("th")]
    assert heads == [visible(text) for text in SHOWN]


def typed(text: str) -> str:
    """Return text with a typesetter's quotes, dashes and dots as they were typed: badges stand in prose."""
    for set_, typed_ in (
        ("’", "'"),
        ("‘", "'"),
        ("“", '"'),
        ("”", '"'),
        ("—", "---"),
        ("–", "--"),
        ("…", "..."),
    ):
        text = text.replace(set_, typed_)
    return text


@pytest.mark.reliability(kind="bad input", title="hostile text in captions, labels, titles and cards")
def test_labels_titles_captions_and_cards_show_their_text(record_property, book) -> None:
    record_property("inputs", len(SHOWN))
    page = article(book, "index.html")
    labels = [div.get("aria-label") for div in page.find_all("div", attrs={"role": "region"})]
    badges = [typed(text_of(note)[2:-1]) for note in page.select(".badge-computed > .tip-text")]
    for text in map(visible, SHOWN):
        assert text in labels
        assert typed(text) in badges
    assert text_of(page.find("figcaption")) == visible("\n\n".join(SHOWN))
    numbered = page.find_all("figcaption")[-1].select_one(".caption-text")
    assert numbered.get_text().split() == visible("\n\n".join(SHOWN)).split()
    blocks = page.find("div", attrs={"aria-label": "Blocks"}).find_all("td")
    assert [block["data-label"] for block in blocks] == [visible(text) for text in SHOWN]
    assert page.find("svg")["aria-label"] == visible(" \n\n".join(SHOWN))
    responses = {text_of(card) for card in page.find_all("div", class_="example-response")}
    assert {visible(text) for text in SHOWN if text == text.rstrip("\n")} <= responses


@pytest.mark.reliability(kind="bad input", title="hostile text in a notebook's printed lines and frames")
def test_printed_lines_and_frames_show_their_text(record_property, book) -> None:
    record_property("inputs", 2 * len(SHOWN))
    page = article(book, "results/01_data.html")
    printed = "".join(pre.get_text() for pre in page.select("div.output pre"))
    expected = visible("\n".join(SHOWN)).split()
    assert printed.split()[: len(expected)] == expected
    cells = page.select("table.dataframe td")
    assert len(cells) == len(SHOWN)
    for kind in ("__pwned=23", "__pwned = 24", "__pwned=25"):
        assert kind not in str(page)


@pytest.mark.parametrize("page", ["index.html", "results/01_data.html"])
def test_no_markup_of_the_text_is_left_in_the_page(book, page) -> None:
    found = copy.copy(article(book, page))
    for theme in found.select("a.headerlink, a.download, button"):
        theme.decompose()
    assert active_markup(str(found)) is None
    assert not found.select("script, iframe, form, input, base, meta, math, a[href^=http], img")
    assert not found.select("div.admonition, blockquote, em, hr, h3, ol, li, dl, section.footnotes")
    assert "/bin/bash" not in found.get_text()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
@pytest.mark.reliability(kind="attack", title="scripts, handlers and addresses in text, in a real browser")
def test_nothing_runs_and_nothing_is_fetched_in_a_real_browser(record_property, book) -> None:
    from playwright.sync_api import sync_playwright

    record_property("inputs", len(SHOWN))

    problems: list[str] = []
    with serving(book) as address, sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("request", lambda r: None if r.url.startswith((address, "data:")) else problems.append(r.url))
        for name in ("index.html", "results/01_data.html"):
            page.goto(f"{address}/{name}")
            page.wait_for_load_state("networkidle")
            page.evaluate(
                """() => { for (const e of document.querySelectorAll('article *'))
                     for (const t of ['mouseover', 'focus', 'error', 'load', 'pointerenter'])
                       e.dispatchEvent(new Event(t)); }"""
            )
            assert page.evaluate("window.__pwned") is None
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert page.evaluate("getComputedStyle(document.body).display") != "none"
        browser.close()
    assert not problems


# --- What stops a build ------------------------------------------------------------------

ACTIVE = [
    "<script>1</script>",
    "<img src=x onerror=1>",
    "<svg/onload=1>",
    "<a href='java\tscript:1'>x</a>",
    "<a href=' &#106;avascript:1'>x</a>",
    "<img src='//evil.invalid/x'>",
    "<img src='http://evil.invalid/x'>",
    "<iframe></iframe>",
    "<object data='x'></object>",
    "<form></form>",
    "<base href='/'>",
    "<meta http-equiv='refresh'>",
    "<svg><use href='data:image/svg+xml;base64,x'/></svg>",
    "<p style='background:url(//evil.invalid)'>x</p>",
    "<style>@import 'http://evil.invalid'</style>",
    "<a href='data:text/html,x'>x</a>",
]


@pytest.mark.reliability(kind="bad input", title="results whose own markup would run or load something")
@pytest.mark.parametrize("markup", ACTIVE)
def test_active_markup_in_results_stops_the_build(tmp_path, markup: str) -> None:
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps(notebook([shown("text/html", f"<div>{markup}</div>")])))
    with pytest.raises(DataError, match="cell 2 shows"):
        published_notebook(tmp_path, "01_data", path)
    (tmp_path / "x.md").write_text(f"text\n\n{markup}\n")
    with pytest.raises(DataError, match=r"x\.md: holds"):
        check_fragments(tmp_path)


@pytest.mark.parametrize(
    "markup",
    ["<a href='https://a.b/c'>x</a>", "<a href='#x'>x</a>", "<img src='data:image/png;base64,x'>", "<b>x</b>",
     "<a href='../x.html?q=a:b'>x</a>", "<style scoped>td{color:red}</style>", "&lt;script&gt;"],
)  # fmt: skip
def test_quiet_markup_passes(markup: str) -> None:
    assert active_markup(markup) is None


@pytest.mark.reliability(kind="fault", title="a notebook that failed is not made a page of the book")
def test_a_failed_notebook_is_no_page(tmp_path) -> None:
    path = tmp_path / "x.ipynb"
    failed = notebook([])
    failed["metadata"]["papermill"]["exception"] = True
    path.write_text(json.dumps(failed))
    with pytest.raises(InfraError, match="ended in an error"):
        published_notebook(tmp_path, "01_data", path)
