"""Sphinx extension: the theme's icons as a font of the few that the book uses, in place of a large script.

The theme draws icons with a script of 1.5 MB that holds thousands of them. Its style sheet can draw
the same from fonts. Here the script is left out, and the fonts are cut down to the icons that occur.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fontTools import subset
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

SCRIPT = re.compile(
    r'\s*<!-- So that users can add custom icons -->\s*<script src="[^"]*fontawesome\.js[^"]*"></script>'
)
STYLES = Path("_static") / "styles" / "pydata-sphinx-theme.css"
FONTS = Path("_static") / "vendor" / "fontawesome" / "webfonts"
CUT = {"solid": "fa-solid-900.ttf", "brands": "fa-brands-400.ttf"}
"""What ``infra.css`` loads, and the theme's font that it is cut from."""

CLASSES = re.compile(r'class="([^"]*\bfa[sbr]?\b[^"]*|[^"]*\bfa-[^"]*)"')


def draw_icons_from_fonts(app: Sphinx, failure: Exception | None) -> None:
    """Take the script out of every page and write the fonts."""
    if failure or app.builder.format != "html":
        return
    out = Path(app.outdir)
    names: set[str] = set()
    for path in out.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        for classes in CLASSES.findall(page):
            names.update(name for name in classes.split() if name.startswith("fa-"))
        lighter, _ = SCRIPT.subn("", page)
        if "fontawesome.js" in lighter:
            raise ExtensionError(f"{path.name}: the theme loads its icons in a way that is not known here")
        if lighter != page:
            path.write_text(lighter, encoding="utf-8")
    points = code_points((out / STYLES).read_text(encoding="utf-8"), names)
    for name, source in CUT.items():
        cut(out / FONTS / source, out / "_static" / f"icons-{name}.woff", points)
    for left in (out / "_static" / "scripts").glob("fontawesome.js*"):
        left.unlink()


def code_points(styles: str, names: set[str]) -> set[int]:
    """Return the characters of icons: those of classes, and those that the theme's own rules show."""
    points = set()
    for selectors, shown in re.findall(r'([^{}]+)\{content:"\\([0-9a-f]{4})"\}', styles):
        if names & set(re.findall(r"\.(fa-[a-z0-9-]+)", selectors)):
            points.add(int(shown, 16))
    rules = re.findall(r'--pst-[a-z-]+:\s*"(.)"', styles)
    return points | {ord(character) for character in rules if ord(character) > 0xE000}


def cut(source: Path, target: Path, points: set[int]) -> None:
    """Write a font that holds the given characters alone."""
    with TTFont(source) as font:
        options = subset.Options(flavor="woff", layout_features=[], notdef_outline=False, hinting=False)
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=points)
        subsetter.subset(font)
        font.flavor = "woff"
        font["head"].modified = font["head"].created  # the same bytes in every build
        font.recalcTimestamp = False
        font.save(target)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect after all pages are written."""
    app.connect("build-finished", draw_icons_from_fonts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
