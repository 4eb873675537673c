"""One look for every figure, in light and in dark, and the files that a figure becomes.

Figures are drawn once, on a transparent ground, in two inks that stand for "text" and
"lines". Inside a page these become the page's own colours, so that one drawing is
legible in the light and in the dark theme. Hues are those of Okabe and Ito, which people with
any common colour blindness can tell apart.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
import pandas as pd

from infra_lib.files import write_json, write_text
from infra_lib.markup import attribute, escape, visible

INK, LINES = "#24292e", "#c9d1d9"
PAGE_INKS = {INK: "currentColor", LINES: "var(--pst-color-border, #c9d1d9)"}
"""What each ink becomes inside a page, so that a drawing follows the page's theme."""

DOMAIN_COLOURS = {"math": "#0072b2", "code": "#d55e00"}
DOMAIN_MARKERS = {"math": "o", "code": "s"}
ARM_COLOURS = {
    "untuned": "#4d4d4d",
    "uniform": "#7f7f7f",
    "flip": "#009e73",
    "reverse": "#cc79a7",
    "hard_hard": "#0072b2",
    "easy_easy": "#e69f00",
    "without_exploration": "#56b4e9",
    "fewer_tokens": "#a0a0a0",
    "influence": "#d55e00",
    "flip_tokens": "#009e73",
    "reverse_tokens": "#cc79a7",
    "hard_hard_tokens": "#0072b2",
    "easy_easy_tokens": "#e69f00",
}
ARM_MARKERS = {
    "untuned": "x",
    "uniform": "o",
    "flip": "^",
    "reverse": "v",
    "hard_hard": "D",
    "easy_easy": "s",
    "without_exploration": "X",
    "fewer_tokens": "P",
    "influence": "*",
    "flip_tokens": "2",
    "reverse_tokens": "1",
    "hard_hard_tokens": "d",
    "easy_easy_tokens": "p",
}
"""An arm that is matched in tokens has the colour of the one matched in examples, and another marker."""
VERDICT_COLOURS = {"reproduced": "#009e73", "not reproduced": "#cc3d6b", "undecided": "#8a8f96"}
VERDICT_MARKERS = {"reproduced": "o", "not reproduced": "X", "undecided": "D"}
UNITS = {
    "sd": "influence (standard deviations of examples)",
    "sd of sentences": "influence (standard deviations of sentences)",
    "sd of tokens": "influence (standard deviations of tokens)",
    "accuracy": "difference in accuracy",
}
DIVERGING = "PuOr_r"
"""Colour map for signed values: orange helps, purple hinders, both darker with size."""

NAMES = {
    "math": "mathematics",
    "code": "code",
    "hard_hard": "hard–hard",
    "easy_easy": "easy–easy",
    "without_exploration": "without exploration",
    "fewer_tokens": "fewer tokens",
    "flip_tokens": "flip, tokens matched",
    "reverse_tokens": "reverse, tokens matched",
    "hard_hard_tokens": "hard–hard, tokens matched",
    "easy_easy_tokens": "easy–easy, tokens matched",
}

_SETTINGS: dict[str, Any] = {
    "figure.figsize": (6.0, 3.5),
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINES,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINES,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "svg.hashsalt": "infra",
    "svg.fonttype": "path",
    "text.parse_math": False,  # a label out of data may hold a dollar sign
}


def apply() -> None:
    """Set the style for all figures drawn from here on."""
    mpl.rcParams.update(mpl.rcParamsDefault)
    mpl.rcParams.update(_SETTINGS)


def name_of(key: object) -> str:
    """Return how a domain or arm is written in figures and tables."""
    return NAMES.get(str(key), str(key))


def in_order(arms: Iterable[str]) -> list[str]:
    """Return the arms that occur, in the order in which figures and tables show them."""
    known = list(ARM_COLOURS)
    return sorted(set(arms), key=lambda arm: known.index(arm) if arm in known else len(known))


_DRAWN_BY = "infra_drawn_by"
_Arguments = ParamSpec("_Arguments")


def drawn(function: Callable[_Arguments, Any]) -> Callable[_Arguments, Any]:
    """Mark a function that draws: its figures remember which function drew them, and pages link to it."""

    @functools.wraps(function)
    def drawing(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Any:
        figure = function(*args, **kwargs)
        setattr(figure, _DRAWN_BY, f"{function.__module__}.{function.__name__}")
        return figure

    return drawing


@dataclass(frozen=True)
class ShownFigure:
    """A figure as a page shows it: the drawing itself, in the page's own ink, with alternative text."""

    svg: str
    alt: str
    caption: str
    identifier: str

    def _repr_html_(self) -> str:
        drawing = self.svg.replace("<svg ", f'<svg role="img" aria-label="{attribute(self.alt)}" ', 1)
        caption = f"<figcaption>{escape(self.caption)}</figcaption>"
        return f'<figure class="infra-figure" id="{self.identifier}">\n{drawing}\n{caption}\n</figure>'


def save_figure(
    folder: Path,
    stage: str,
    name: str,
    figure: Any,
    *,
    data: pd.DataFrame,
    alt: str,
    caption: str,
    page: str | None = None,
    results: str | None = None,
) -> ShownFigure:
    """Write ``name`` as SVG, PNG and CSV, a record of where it is from, and the fragment of a page.

    Parameters
    ----------
    stage
        The notebook that made the figure, which its line of links names.
    data
        What the figure shows, downloadable beside it.
    alt
        What a reader who cannot see it should know.
    page
        What the links name instead, where no notebook made the figure.
    results
        The results file behind it, from the book's ``results`` folder, such as
        ``data/06_summary/claims.parquet``.
    """
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None}, transparent=True)
    figure.savefig(folder / f"{name}.png", dpi=160, metadata={"Software": None}, facecolor="white")
    plt.close(figure)
    data.to_csv(folder / f"{name}.csv", index=False)
    identifier = f"fig-{stage[:2]}-{name.replace('_', '-')}"
    shown = ShownFigure(inline_svg(path.read_text(encoding="utf-8"), identifier), alt, caption, identifier)
    record = {
        "identifier": identifier,
        "stage": stage,
        "name": name,
        "alt": visible(alt),
        "caption": visible(caption),
        "function": getattr(figure, _DRAWN_BY, None),
        "page": page or f"/results/{stage}",
        "results": results,
    }
    write_json(folder / f"{name}.json", record)
    write_text(folder / f"{name}.md", shown._repr_html_() + "\n")
    return shown


def inline_svg(svg: str, identifier: str) -> str:
    """Return a drawing that stands inside a page: the theme's inks, ids of its own, no blank line."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)  # the text of every label, of no use on a page
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{identifier}-", body)
    body = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", body, count=1)
    for ink, themed in PAGE_INKS.items():
        body = body.replace(ink, themed)
    return "\n".join(line for line in body.splitlines() if line.strip())
