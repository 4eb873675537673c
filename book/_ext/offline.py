"""Sphinx extension: leave out the scripts of live code cells, which this book does not offer.

Jupyter Book adds them to every page, twice, with the address of a public server; pages
would report an error and name a host that readers need not contact.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def without_live_code(
    _app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: Any
) -> None:
    """Take the scripts of sphinx-thebe out of a page."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{script} {getattr(script, 'attributes', '')}".lower()
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect after the extensions that add scripts."""
    app.connect("html-page-context", without_live_code, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
