"""Sphinx extension: equations as MathML, made while the book is built.

Browsers show MathML by themselves, so pages need neither a script nor a network, weigh
little, and can be read aloud by screen readers.
"""

from __future__ import annotations

import html
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number


def inline(self: Any, node: nodes.math) -> None:
    """Write an inline formula."""
    self.body.append(f'<span class="math">{convert(node.astext())}</span>')
    raise nodes.SkipNode


def block(self: Any, node: nodes.math_block) -> None:
    """Write a displayed formula, with its number where it has one."""
    anchor = "".join(f'<span id="{html.escape(name)}"></span>' for name in node.get("ids", []))
    number = ""
    if node["number"]:
        label = get_node_equation_number(self, node)
        number = f'<span class="eqno">({label})</span>'
    latex = (
        node.astext()
        .replace(r"\begin{aligned}", r"\begin{align*}")
        .replace(r"\end{aligned}", r"\end{align*}")
    )
    formula = convert(latex, display="block")
    self.body.append(
        f'<div class="math-block">{anchor}<div class="formula" tabindex="0">{formula}</div>{number}</div>\n'
    )
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer as ``mathml``."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
