"""The picture that stands for the book where its address is shared: drawn from this build's claims."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from infra_lib import style
from infra_lib.claims import count_verdicts
from infra_lib.frames import rows as each_row

SIZE = (1200, 630)
"""Width and height in pixels that services which show such pictures ask for."""

GROUND, MUTED = "#ffffff", "#57606a"


def draw_card(path: Path, claims: pd.DataFrame, study: str) -> None:
    """Write the card as PNG: the question, every measured effect, and the counts of verdicts.

    Parameters
    ----------
    claims
        As :func:`infra_lib.claims.measure_claims` gives them.
    study
        Name of the study, which the card states.
    """
    style.apply()
    figure = plt.figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor=GROUND, layout="none")
    figure.text(
        0.045, 0.865, "Which training data stimulate reasoning?", fontsize=29, weight="bold", color=style.INK
    )
    figure.text(
        0.045,
        0.795,
        "A paper says: hard mathematics and easy code. This book runs the experiments again.",
        fontsize=15.5,
        color=MUTED,
    )
    measured = claims[claims["verdict"] != "not measured"].reset_index(drop=True)
    axes = figure.add_axes((0.31, 0.12, 0.36, 0.6))
    _effects(axes, measured)
    counts = count_verdicts(measured)
    for place, (verdict, colour) in enumerate(style.VERDICT_COLOURS.items()):
        top, count = 0.6 - 0.2 * place, str(counts[verdict])
        figure.text(
            0.775,
            top,
            count,
            fontsize=44,
            weight="bold",
            color=colour,
            ha="right",
            va="baseline",
        )
        figure.text(0.79, top + 0.01, verdict, fontsize=18, color=style.INK, va="baseline")
    figure.text(
        0.955,
        0.035,
        f"Infra companion · study {study} · arXiv 2505.19949",
        fontsize=12,
        color=MUTED,
        ha="right",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, facecolor=GROUND, metadata={"Software": None})
    plt.close(figure)


def _effects(axes: plt.Axes, measured: pd.DataFrame) -> None:
    """Draw effects in units of their own largest reach, since their units differ."""
    for at, row in enumerate(each_row(measured)):
        same = measured[measured["unit"] == row.unit]
        reach = float(same[["mean", "low", "high"]].abs().max(axis=None)) or 1.0
        colour = style.VERDICT_COLOURS[row.verdict]
        axes.plot([row.low / reach, row.high / reach], [at, at], color=colour, linewidth=3.5)
        axes.plot(row.mean / reach, at, style.VERDICT_MARKERS[row.verdict], color=colour, markersize=10)
        side = 1 if row.direction == "up" else -1
        axes.plot(1.18 * side, at, ">" if side > 0 else "<", color=style.INK, markersize=7)
    axes.axvline(0, color=style.INK, linewidth=1.2)
    axes.set(xlim=(-1.28, 1.28), ylim=(len(measured) - 0.4, -0.6), xticks=[])
    axes.set_yticks(range(len(measured)), [_short(row.says) for row in each_row(measured)], fontsize=11)
    axes.set_xlabel("measured, with intervals; triangles: reported side", fontsize=11.5, color=MUTED)
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)


def _short(says: str) -> str:
    return says.replace("mathematics", "maths").replace("conversational", "convers.")
