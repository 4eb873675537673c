"""Sphinx extension: a line under each title: the time that the page takes to read, and its notebook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

WORDS_A_MINUTE = 220


def minutes(doctree: nodes.document) -> int:
    """Return the minutes that a page takes to read: words of its text and tables, code left out."""
    words = 0
    for node in doctree.findall(lambda n: isinstance(n, nodes.Text | nodes.raw)):
        parent = node.parent
        if isinstance(node, nodes.raw):
            words += len(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", node.astext(), flags=re.DOTALL).split())
        elif not isinstance(parent, nodes.literal_block | nodes.raw):
            words += len(node.astext().split())
    return max(1, round(words / WORDS_A_MINUTE))


def add_head(app: Sphinx, doctree: nodes.document) -> None:
    """Insert the line after the first title."""
    name = app.env.docname
    title = next(iter(doctree.findall(nodes.title)), None)
    if title is None or name == app.config.root_doc:
        return
    line = nodes.paragraph("", f"{minutes(doctree)} min read")
    folder = Path(app.srcdir)
    notebook = folder / f"{name}.ipynb"
    source = folder / "results" / "source" / f"{Path(name).name}.py"
    for text, path in (("executed notebook (.ipynb)", notebook), ("its source (.py)", source)):
        if notebook.is_file() and path.is_file():
            line += nodes.Text(" · ")
            line += addnodes.download_reference(
                "",
                "",
                nodes.inline("", text, classes=["xref", "download"]),
                refdoc=name,
                reftarget=f"/{path.relative_to(folder).as_posix()}",
                reftype="download",
            )
    parent = title.parent
    parent.insert(parent.index(title) + 1, nodes.container("", line, classes=["page-head"]))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect before downloads are collected, after figures have their links."""
    app.connect("doctree-read", add_head, priority=60)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
