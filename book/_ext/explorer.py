"""Sphinx extension: give the explorer's page its scripts and style, and put its data beside them.

The scripts lie in ``_explorer``, since Jupyter Book adds whatever lies in ``_static`` to every page.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

PAGE = "explorer"
SOURCES = "_explorer"
SCRIPTS = ("explorer-data.js", "explorer-view.js", "explorer.js")


def add_sources(app: Sphinx, config: Config) -> None:
    """Copy the scripts to where static files go, in a book that has them."""
    if (Path(app.srcdir) / SOURCES).is_dir():
        config.html_static_path = [*config.html_static_path, SOURCES]


def add_scripts(app: Sphinx, page: str, _template: str, _context: dict[str, Any], _doctree: Any) -> None:
    """Add scripts and style to this page alone; others need not load them."""
    if page == PAGE:
        app.add_css_file("explorer.css")
        for script in SCRIPTS:
            app.add_js_file(script, loading_method="defer")


def copy_data(app: Sphinx, exception: Exception | None) -> None:
    """Copy what was gathered for the page, which has been checked before anything was read."""
    source, goal = Path(app.srcdir) / "results" / PAGE, Path(app.outdir) / "_static" / PAGE
    if exception is None and source.is_dir():
        shutil.rmtree(goal, ignore_errors=True)
        shutil.copytree(source, goal)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to the making of pages and to the end of the build."""
    app.connect("config-inited", add_sources)
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", copy_data)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
