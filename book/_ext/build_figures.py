"""Sphinx extension: figures of the build with a number, and under each the way back to what made it.

``{build-figure} 06_summary/headline`` shows a figure that a notebook wrote, numbered, so that text can
refer to it with ``numref``. Where the study leaves the figure out, the notebook writes a fragment of that
name that says so, and it stands in the figure's place. Every figure, also one that a notebook shows, gets a
line of links: its data, its pictures, its notebook, the function that drew it and the results file behind it.
"""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from infra_lib.drawing_functions import function_label

FUNCTIONS = "functions"
"""The page that shows the functions that drew the figures."""

IDENTIFIER = re.compile(r'<figure class="infra-figure" id="([^"]+)"')


def read_records(app: Sphinx) -> None:
    """Read what every figure of the build says of itself."""
    folder = Path(app.srcdir) / "results" / "figures"
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/*.json"))]
    app.env.infra_figures = {record["identifier"]: record for record in records}  # type: ignore[attr-defined]


class BuildFigure(SphinxDirective):
    """A figure of the build: its drawing, a numbered caption, and the line of links."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"name": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """Return the figure, what stands for it, or a warning that names it."""
        asked = self.arguments[0]
        found = [r for r in self.env.infra_figures.values() if f"{r['stage']}/{r['name']}" == asked]
        if not found:
            return [self._left_out(asked)]
        record = found[0]
        path = Path(self.env.srcdir) / "results" / "figures" / record["stage"] / f"{record['name']}.md"
        self.env.note_dependency(str(path))
        markup = path.read_text(encoding="utf-8")
        drawing = markup[markup.index("<svg") : markup.index("<figcaption>")]
        figure = nodes.figure(classes=["infra-figure"])
        figure += nodes.raw("", f'<div class="drawing">{drawing}</div>', format="html")
        caption = nodes.Text(record["caption"])
        figure += nodes.caption("", "", caption, support_smartquotes=False)  # as it was written
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure, links(record, self.env)]

    def _left_out(self, asked: str) -> nodes.Node:
        """Return what the notebook says in place of the figure, numbered like it, or a warning."""
        path = Path(self.env.srcdir) / "results" / "tables" / f"{asked}.md"
        if not path.is_file():
            return self.state.document.reporter.warning(f"no figure {asked} in results", line=self.lineno)
        self.env.note_dependency(str(path))
        figure = nodes.figure(classes=["infra-figure"])
        # A caption without text of its own gets no number.
        said = unescape(re.sub(r"<[^>]*>", "", path.read_text(encoding="utf-8"))).strip()
        figure += nodes.caption("", "", nodes.Text(said))
        self.set_source_info(figure)
        self.add_name(figure)
        return figure


def links(record: dict[str, Any], env: Any) -> nodes.container:
    """Return the line of links under a figure."""
    base = f"/results/figures/{record['stage']}/{record['name']}"
    line = nodes.paragraph()
    parts: list[nodes.Node] = [
        _download("data (CSV)", f"{base}.csv", env),
        _download("PNG", f"{base}.png", env),
        _download("SVG", f"{base}.svg", env),
    ]
    page = record["page"].strip("/")
    if page.endswith(".py"):  # a notebook that is no page of the book
        parts.append(_download("notebook", f"/{page}", env))
    elif page in env.found_docs and page != env.docname:
        parts.append(_reference("notebook" if page.startswith("results/") else "page", page, "doc", env))
    if record["function"] and FUNCTIONS in env.found_docs:
        parts.append(
            _reference(record["function"], function_label(record["function"]), "ref", env, code=True)
        )
    if record["results"]:
        parts.append(
            _download(f"results ({Path(record['results']).name})", f"/results/{record['results']}", env)
        )
    for number, part in enumerate(parts):
        if number:
            line += nodes.Text(" · ")
        line += part
    return nodes.container("", line, classes=["figure-links"])


def _download(text: str, target: str, env: Any) -> nodes.Node:
    shown = nodes.inline("", text, classes=["xref", "download"])
    return addnodes.download_reference(
        "", "", shown, refdoc=env.docname, reftarget=target, reftype="download"
    )


def _reference(text: str, target: str, kind: str, env: Any, *, code: bool = False) -> nodes.Node:
    shown = nodes.literal("", text) if code else nodes.inline("", text)
    target = f"/{target}" if kind == "doc" else target
    return addnodes.pending_xref(
        "",
        shown,
        refdoc=env.docname,
        refdomain="std",
        reftype=kind,
        reftarget=target,
        refexplicit=True,
        refwarn=True,
    )


def add_links(app: Sphinx, doctree: nodes.document) -> None:
    """Add the line of links under every figure that stands on a page as finished HTML."""
    for raw in list(doctree.findall(nodes.raw)):
        found = IDENTIFIER.search(raw.astext())
        record = app.env.infra_figures.get(found.group(1)) if found else None  # type: ignore[attr-defined]
        if record is None:
            continue
        place: nodes.Element = raw
        while place.parent is not None and "cell" in str(place.parent.get("nb_element", "")) + " ".join(
            place.parent.get("classes", [])
        ):
            if "cell" in place.parent.get("classes", []):
                break
            place = place.parent
        _after(place, links(record, app.env))


def _after(place: nodes.Element, node: nodes.Node) -> None:
    parent = place.parent
    parent.insert(parent.index(place) + 1, node)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect before downloads and references are collected."""
    app.add_directive("build-figure", BuildFigure)
    app.connect("builder-inited", read_records)
    app.connect("doctree-read", add_links, priority=50)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
