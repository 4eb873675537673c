"""The built book in a real browser: it loads alone, fits every width, and can be read by everyone."""

from __future__ import annotations

import re

import pytest
from book_browser import IN_BROWSER

pytestmark = IN_BROWSER


def test_every_page_loads_without_errors_and_without_the_network(browser, address, pages) -> None:
    assert len(pages) >= 14
    problems: list[str] = []
    page = browser.new_page()
    page.on(
        "console",
        lambda m: problems.append(m.text) if m.type == "error" and "theme mode" not in m.text else None,
    )
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"failed {request.url}"))
    page.on("response", lambda r: problems.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on(
        "request",
        lambda r: None if r.url.startswith((address, "data:")) else problems.append(f"outside {r.url}"),
    )
    for name in pages:
        page.goto(f"{address}/{name}")
        page.wait_for_load_state("networkidle")
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
        problems += [f"broken image {src} on {name}" for src in page.evaluate(broken)]
    page.close()
    assert not problems


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_scrolls_sideways(browser, address, pages, width: int, theme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme)
    wide = []
    for name in pages:
        page.goto(f"{address}/{name}")
        scroll = page.evaluate("document.documentElement.scrollWidth")
        if scroll > width:
            wide.append((name, scroll))
    page.close()
    assert not wide


def test_figures_have_alternative_text_and_follow_the_theme(browser, address, pages) -> None:
    inks = {}
    count = 0
    for theme in ("light", "dark"):
        page = browser.new_page(color_scheme=theme)
        for name in pages:
            page.goto(f"{address}/{name}")
            for label in page.eval_on_selector_all(
                ".infra-figure svg", "all => all.map(s => s.getAttribute('aria-label'))"
            ):
                count += 1
                assert len(label) > 20
        page.goto(f"{address}/index.html")
        inks[theme] = page.eval_on_selector(".infra-figure svg", "s => getComputedStyle(s).color")
        page.close()
    assert count >= 20
    assert inks["light"] != inks["dark"]


def test_equations_are_there_without_a_script(browser, address) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/method.html")
    assert page.locator("math").count() > 20
    text = page.locator("article").inner_text()
    assert "\\frac" not in text
    assert "$" not in text
    context.close()


def test_search_finds_a_term(browser, address) -> None:
    page = browser.new_page()
    page.goto(f"{address}/search.html?q=damping")
    page.wait_for_selector("ul.search li a", timeout=10_000)
    assert "method" in " ".join(page.eval_on_selector_all("ul.search li a", "all => all.map(a => a.href)"))
    page.close()


def test_links_within_the_book_lead_somewhere(html, pages) -> None:
    missing = []
    for name in pages:
        text = (html / name).read_text(encoding="utf-8")
        for link in re.findall(r'href="([^"#?]+)[#"]', text):
            if not re.match(r"[a-z]+:", link) and not ((html / name).parent / link).exists():
                missing.append((name, link))
    assert not missing


def test_landing_page_says_claim_finding_and_commands_on_one_screen(browser, address) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}/index.html")
    text = page.locator("article").inner_text()
    for words in ("hard mathematics and easy code", "came out as reported", "make book", "make test"):
        assert words in text
    assert page.locator(".infra-card").count() == 3
    assert page.locator(".infra-card .range").filter(has_text="interval [").count() == 3
    shown = [".landing-picture svg", ".infra-card >> nth=2", ".landing-side .badge-computed"]
    for part in [*shown, ".landing-side .badge-reported", "article pre >> nth=0"]:
        box = page.locator(part).first.bounding_box()
        assert box["y"] + box["height"] < 900, part
    page.close()


def test_no_number_on_the_status_page_is_missing(browser, address, smoke) -> None:
    import json

    record = json.loads((smoke.stage("05_reweighting_arms") / "provenance.json").read_text())
    page = browser.new_page()
    page.goto(f"{address}/status.html")
    text = page.locator("article").inner_text()
    assert f"{record['seconds']:.0f} s" in text
    assert record["environment"]["versions"]["torch"] in text
    assert record["environment"]["device"] in text
    page.close()


def test_the_reliability_page_counts_and_its_table_is_searched(browser, address, root) -> None:
    page = browser.new_page()
    page.goto(f"{address}/reliability.html")
    if not (root / "records" / "reliability.json").exists():
        assert "not available" in page.locator("article").inner_text()
        return
    assert page.locator(".infra-card").count() == 4
    rows = page.locator(".infra-filter + .infra-table tbody tr:visible")
    every = rows.count()
    page.locator(".infra-filter input").first.fill("changed byte base")
    assert 0 < rows.count() < every
    assert f"{rows.count()} of " in page.locator(".infra-filter output").first.inner_text()
    page.close()


def test_claims_page_shows_every_test_of_every_claim(browser, address) -> None:
    from infra_lib.paper import load_paper

    page = browser.new_page()
    page.goto(f"{address}/claims.html")
    text = page.locator("article").inner_text()
    for claim in load_paper()["claims"]:
        for entry in claim["tests"]:
            assert entry["says"] in text
    assert "not available" in text
    for number in load_paper()["numbers"]:
        assert f"{number['value']:g} %" in text
    page.close()


def test_axe_like_basics_hold_on_every_page(browser, address, pages) -> None:
    """Each page has one h1, a language, and no unlabelled button, link or image."""
    page = browser.new_page()
    problems = []
    for name in pages:
        page.goto(f"{address}/{name}")
        if page.locator("article h1").count() != 1:
            problems.append((name, "h1", page.locator("article h1").count()))
        if not page.evaluate("document.documentElement.lang"):
            problems.append((name, "lang", ""))
        unnamed = page.evaluate(
            """[...document.querySelectorAll('article a, article button, img')].filter(e => {
                 const name = e.getAttribute('aria-label') || e.title || e.alt || e.textContent.trim();
                 return !name; }).map(e => e.outerHTML.slice(0, 120))"""
        )
        problems += [(name, "unnamed", markup) for markup in unnamed]
    page.close()
    assert not problems


def test_the_books_notebooks_hold_no_path_of_this_machine(smoke, html) -> None:
    for path in (smoke.folder / "book" / "results").glob("*.ipynb"):
        assert str(smoke.folder) not in path.read_text(encoding="utf-8")
