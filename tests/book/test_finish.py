"""What makes the book one to pass on: accessible, light, traceable, and complete on every page."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from book_browser import IN_BROWSER
from bs4 import BeautifulSoup

from infra_lib.checksums import write_manifest
from infra_lib.layout import STAGES
from infra_lib.paper import load_paper
from infra_lib.validation.record import KEPT

pytestmark = IN_BROWSER

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [
    folder.name for folder in (ROOT / "records").iterdir() if any((folder / stage).is_dir() for stage in KEPT)
]
"""Recorded studies."""


def soup(html: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((html / name).read_text(encoding="utf-8"), "html.parser")


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_no_serious_violation(browser, address, pages, width: int, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    found = []
    for name in [*pages, "search.html"]:
        page.goto(f"{address}/{name}")
        result = axe.run(page).response
        assert len(result["passes"]) > 10  # axe looked at this page
        found += [
            (name, violation["id"], violation["nodes"][0]["html"][:200])
            for violation in result["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
    page.close()
    assert not found


def test_the_landing_page_is_light(browser, address) -> None:
    sizes: dict[str, int] = {}
    page = browser.new_page()
    page.on("response", lambda r: sizes.__setitem__(r.url, len(r.body())))
    page.goto(f"{address}/index.html")
    page.wait_for_load_state("networkidle")
    page.close()
    assert len(sizes) > 8
    assert sum(sizes.values()) < 1_500_000, sorted(sizes.items(), key=lambda item: -item[1])[:5]
    assert not [url for url in sizes if "fontawesome" in url]
    assert sum("icons-solid.woff" in url for url in sizes) == 1


def test_every_icon_is_drawn_and_its_button_has_a_name(browser, address, html) -> None:
    from fontTools.ttLib import TTFont

    held = set(TTFont(html / "_static" / "icons-solid.woff").getBestCmap())
    page = browser.new_page()
    page.goto(f"{address}/results/05_reweighting_arms.html")
    icons = page.evaluate(
        """[...document.querySelectorAll('i[class*="fa-"], span[class*="fa-"]')].map(e => {
             const drawn = getComputedStyle(e, '::before');
             return [e.className, drawn.content, drawn.fontFamily]; })"""
    )
    assert len(icons) >= 8
    for classes, content, family in icons:
        assert "Font Awesome" in family, classes
        assert ord(content.strip('"')) in held, classes
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button')].filter(e =>
             !(e.getAttribute('aria-label') || e.title || e.dataset.bsOriginalTitle || e.textContent.trim()))
             .map(e => e.outerHTML.slice(0, 150))"""
    )
    page.close()
    assert not unnamed


def test_the_theme_switch_and_the_contents_work_without_the_script(browser, address) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="light")
    page.goto(f"{address}/claims.html")
    before = page.evaluate("document.documentElement.dataset.theme")
    seen = {before}
    for _ in range(3):
        page.locator(".theme-switch-button:visible").first.click()
        seen.add(page.evaluate("document.documentElement.dataset.theme"))
    assert seen == {"light", "dark"}
    page.locator(".primary-toggle:visible").first.click()
    page.wait_for_selector("#pst-primary-sidebar-modal[open] a:has-text('The method')", state="visible")
    page.close()


def test_each_figure_links_to_its_data_function_and_results(html, pages, smoke) -> None:
    results = smoke.folder / "book" / "results"
    records = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(results.glob("figures/*/*.json"))]
    assert len(records) >= 14
    assert all(record["alt"] and record["caption"] and record["function"] for record in records)
    figures = links = 0
    for name in pages:
        page = soup(html, name)
        for figure in page.select("figure.infra-figure"):
            figures += 1
            line = figure.find_next("div", class_="figure-links")
            assert line is not None, (name, figure.get("id"))
            found = {a.get_text(): a["href"] for a in line.select("a")}
            assert {"data (CSV)", "PNG", "SVG"} <= set(found)
            assert any(text.startswith("infra_lib.") for text in found)
            assert any(text.startswith("results (") for text in found)
            # What a record shows was drawn while the book was gathered, by no notebook of this build.
            if not name.startswith(("results/", "performance")):
                recorded = any(figure["id"].startswith(f"fig-{record}-") for record in RECORDS)
                assert recorded != ("notebook" in found), (name, figure["id"])
            for target in found.values():
                path, _, place = target.partition("#")
                where = (html / name).parent / path if path else html / name
                assert where.is_file(), (name, target)
                assert not place or soup(html, str(where.resolve().relative_to(html))).find(id=place), target
                links += 1
    assert figures >= 20
    assert links >= 5 * figures


def test_downloads_are_the_files_of_the_run(browser, address, smoke) -> None:
    page = browser.new_page()
    page.goto(f"{address}/claims/flip.html")
    link = page.locator(".figure-links a", has_text="data (CSV)").first.get_attribute("href")
    text = page.request.get(f"{address}/claims/{link}").text()
    rows = list(csv.DictReader(io.StringIO(text)))
    claims = pd.read_parquet(smoke.stage("06_summary") / "data" / "claims.parquet").set_index("test")
    own = claims[(claims["unit"] == "accuracy") & (claims["claim"] == "2")]
    assert [row["test"] for row in rows] == list(own.index)
    for row in rows:
        assert float(row["mean"]) == pytest.approx(claims.loc[row["test"], "mean"])
    link = page.locator(".figure-links a", has_text="results (claims.parquet)").first.get_attribute("href")
    body = page.request.get(f"{address}/claims/{link}").body()
    assert body == (smoke.stage("06_summary") / "data" / "claims.parquet").read_bytes()
    page.close()


def test_notebooks_can_be_downloaded_executed_and_as_source(html, smoke) -> None:
    for stage in STAGES:
        head = soup(html, f"results/{stage}.html").select_one(".page-head")
        files = {a["href"].rsplit(".", 1)[-1]: html / "results" / a["href"] for a in head.select("a")}
        notebook = json.loads(files["ipynb"].read_text(encoding="utf-8"))
        assert any(cell.get("execution_count") for cell in notebook["cells"])
        assert files["py"].read_bytes() == (smoke.folder / "notebooks" / f"{stage}.py").read_bytes()


def test_notes_open_on_hover_and_on_focus_and_close_on_escape(browser, address) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{address}/claims/flip.html")
    tip = page.locator("td .tip", has_text="computed in this build by notebook").first
    note = tip.locator(".tip-text")
    assert note.bounding_box()["width"] <= 1
    tip.focus()
    box = note.bounding_box()
    assert box["width"] > 100
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    for words in ("05_reweighting_arms", "study smoke", "commit", "seed"):
        assert words in note.inner_text()
    page.keyboard.press("Escape")
    assert note.bounding_box()["width"] <= 1
    page.locator("article h1").click()
    tip.hover()
    assert note.bounding_box()["width"] > 100
    page.close()


def test_each_claim_has_its_page_with_every_part(html, smoke) -> None:
    claims = pd.read_parquet(smoke.stage("06_summary") / "data" / "claims.parquet")
    contents = soup(html, "claims.html").select_one("nav.bd-links").get_text()
    for claim in load_paper()["claims"]:
        page = soup(html, f"claims/{claim['page']}.html")
        article = page.select_one("article")
        text = article.get_text()
        assert claim["title"] in contents
        assert claim["claim"] in text
        for part in ("What would refute it", "The experiment", "Reported beside measured", "Caveats"):
            assert part in text, (claim["page"], part)
        assert article.select_one(".admonition.change")
        assert article.select("figure.infra-figure figcaption .caption-number")
        assert article.select("a[href^='#fig-']")  # the text refers to the figure by number
        rows = article.select("[aria-label='Reported beside measured'] tbody tr")
        assert len(rows) == len(claim["tests"])
        for row, entry in zip(rows, claim["tests"], strict=True):
            known = claims.set_index("test").loc[entry["id"]]
            assert entry["says"] in row.get_text()
            assert row.select_one("[class^=verdict-]").get_text().startswith(known["verdict"])
            reported, measured = row.select("td")[2:4]
            assert (entry.get("reported") or "number not available") in reported.get_text()
            if known["verdict"] == "not measured":
                assert measured.get_text() == "not available"


def test_every_page_says_how_long_it_takes_and_leads_on(html, pages) -> None:
    for name in pages:
        page = soup(html, name)
        if name != "index.html":
            assert "min read" in page.select_one(".page-head").get_text(), name
            assert page.select_one(".prev-next-footer a.left-prev"), name
    assert soup(html, "index.html").select_one(".prev-next-footer a.right-next")


def test_a_shared_link_shows_the_card(html, pages) -> None:
    card = html / "_static" / "card.png"
    assert struct.unpack(">II", card.read_bytes()[16:24]) == (1200, 630)
    for name in pages:
        head = soup(html, name).head
        told = {m.get("property") or m.get("name"): m.get("content") for m in head.select("meta[content]")}
        assert told["og:image"].endswith("_static/card.png")
        assert told["twitter:card"] == "summary_large_image"
        assert told["og:title"]
        assert told["og:description"], name
        assert head.select_one("link[rel=icon], link[rel='shortcut icon']")
    told = soup(html, "index.html").head.find("meta", property="og:description")["content"]
    assert "came out as reported" in told


def test_without_an_address_nothing_is_launched(html) -> None:
    text = (html / "results" / "05_reweighting_arms.html").read_text(encoding="utf-8")
    assert "mybinder.org" not in text
    assert "colab" not in text


# --- Where the project is public ---------------------------------------------------------


@pytest.fixture(scope="module")
def public(root, smoke, html, tmp_path_factory) -> Path:
    """One notebook's page and a first page, built as a project with public addresses builds them."""
    folder = tmp_path_factory.mktemp("public")
    shutil.copy2(root / "_config.yml", folder)
    for name in ("_ext", "_static"):
        shutil.copytree(root / "book" / name, folder / "book" / name)
    shutil.copy2(root / "book" / "references.bib", folder / "book")
    results = folder / "book" / "results"
    gathered = smoke.folder / "book" / "results"
    shutil.copytree(gathered / "figures" / "02_base_model", results / "figures" / "02_base_model")
    shutil.copytree(gathered / "data" / "02_base_model", results / "data" / "02_base_model")
    shutil.copytree(gathered / "generated", results / "generated")
    shutil.copy2(gathered / "02_base_model.ipynb", results)
    write_manifest(results)
    (folder / "book" / "index.md").write_text("# First\n\nA page.\n", encoding="utf-8")
    toc = "format: jb-book\nroot: index\nchapters:\n  - file: results/02_base_model\n"
    (folder / "book" / "_toc.yml").write_text(toc, encoding="utf-8")
    return folder


def build(folder: Path, **addresses: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "book"]
    command += ["--config", "_config.yml", "--path-output", ".", "--all", "-W", "-n", "--keep-going"]
    environment = {**os.environ, **addresses}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_with_an_address_notebooks_are_launched_and_the_card_has_a_whole_address(public) -> None:
    done = build(
        public,
        INFRA_REPOSITORY_URL="https://github.com/someone/project/",
        INFRA_BOOK_URL="https://example.org/book",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = soup(public / "_build" / "html", "results/02_base_model.html")
    links = [a["href"] for a in page.select(".dropdown-launch-buttons a")]
    path = "book/results/02_base_model.ipynb"
    assert links == [
        f"https://mybinder.org/v2/gh/someone/project/notebooks?urlpath=lab/tree/{path}",
        f"https://colab.research.google.com/github/someone/project/blob/notebooks/{path}",
    ]
    told = {m["property"]: m["content"] for m in page.head.select("meta[property]")}
    assert told["og:image"] == "https://example.org/book/_static/card.png"
    assert told["og:url"] == "https://example.org/book/results/02_base_model.html"
    first = soup(public / "_build" / "html", "index.html")
    assert not first.select(".dropdown-launch-buttons")  # a page that is no notebook


def test_a_wrong_address_is_named(public) -> None:
    done = build(public, INFRA_REPOSITORY_URL="someone/project")
    assert done.returncode != 0
    assert "infra_repository_url is 'someone/project'" in done.stderr + done.stdout
