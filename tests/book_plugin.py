"""The smoke study's book, built once, and the browser that reads it.

A plugin and no conftest.py: tests import from the one conftest module that there is.
"""

from __future__ import annotations

import pytest
from book_browser import CHROMIUM, FLAGS, serving


@pytest.fixture(scope="session")
def html(smoke):
    """The smoke study's book, built with warnings fatal."""
    done = smoke.infra("book", "--study", "smoke")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The book is at" in done.stdout
    return smoke.folder / "_build" / "html"


@pytest.fixture(scope="session")
def pages(html) -> list[str]:
    skipped = {"genindex.html", "search.html", "py-modindex.html"}
    found = [str(path.relative_to(html)) for path in sorted(html.rglob("*.html"))]
    return [name for name in found if name not in skipped and not name.startswith("_static")]


@pytest.fixture(scope="session")
def address(html):
    with serving(html) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()
