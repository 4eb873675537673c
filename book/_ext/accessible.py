"""Sphinx extension: what assistive technology misses in the theme's own markup.

Each mend is checked by the tests, which run axe-core over every page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

MENDS = {
    # The arrows that unfold parts of the contents have no name.
    '<summary><span class="toctree-toggle"': '<summary aria-label="Show or hide the pages below">'
    '<span class="toctree-toggle"',
    # A list whose children are no list items.
    '<div role="list" class="citation-list">': '<div class="citation-list">',
    # The sidebar lies outside every landmark.
    '<div id="pst-primary-sidebar"': '<div id="pst-primary-sidebar" role="region" aria-label="Book"',
}


def mend(app: Sphinx, failure: Exception | None) -> None:
    """Mend every page."""
    if failure or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        mended = page
        for found, better in MENDS.items():
            if better not in mended:
                mended = mended.replace(found, better)
        if mended != page:
            path.write_text(mended, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect after all pages are written."""
    app.connect("build-finished", mend)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
