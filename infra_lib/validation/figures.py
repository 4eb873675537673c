"""Figures of the validation: one function each, a data frame in and a matplotlib figure out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from infra_lib import style
from infra_lib.figures import forest
from infra_lib.frames import rows as each_row
from infra_lib.study import VALIDATION_METHODS
from infra_lib.validation.report import MEAN

METHOD_NAMES = {
    "ekfac": "EK-FAC",
    "kfac": "KFAC",
    "diagonal": "diagonal",
    "refined": "refined EK-FAC",
    "trak": "TRAK",
    "graddot": "gradient dot",
    "gradcos": "gradient cosine",
    "loss": "loss",
    "length": "length",
    "random": "random",
}
"""How methods are written."""

LINES = {
    "ekfac": ("#0072b2", "o"),
    "kfac": ("#e69f00", "s"),
    "diagonal": ("#009e73", "^"),
    "refined": ("#d55e00", "D"),
    "trak": ("#cc79a7", "v"),
    "graddot": ("#7f7f7f", "P"),
    "gradcos": ("#56b4e9", "X"),
}
"""Colour and marker of methods that are drawn as lines."""

ENDS = {"top": ("-", "most helpful"), "bottom": ("--", "least helpful")}

ROWS = {"top": ("#d55e00", "v", -0.14), "bottom": ("#0072b2", "^", 0.14)}
"""Colour, marker and place in a row of what is removed, where methods are rows."""

MOST_LINES = 5
"""Methods, random removals among them, that a figure can show as lines."""


def in_order(methods: Iterable[str]) -> list[str]:
    """Return the methods that occur, in the order of figures and tables."""
    found = set(methods)
    return [method for method in VALIDATION_METHODS if method in found]


def _target_name(target: object) -> str:
    return "mean of targets" if target == MEAN else f"on {style.name_of(target)}"


@style.drawn
def lds(frame: pd.DataFrame, ceiling: pd.DataFrame) -> Figure:
    """Draw the LDS of each method with its interval, and the noise ceiling.

    Columns: method, target, lds, low, high; of the ceiling: target, ceiling, low, high (or no rows).
    """
    targets = sorted(frame["target"].unique(), key=lambda t: (t == MEAN, t), reverse=True)
    methods = in_order(frame["method"])
    figure, panels = plt.subplots(
        1, len(targets), figsize=(6.8, 0.9 + 0.3 * len(methods)), sharey=True, squeeze=False
    )
    for axes, target in zip(panels[0], targets, strict=True):
        rows = frame[frame["target"] == target].set_index("method").reindex(methods)
        height = np.arange(len(methods))
        axes.hlines(height, rows["low"], rows["high"], color=style.INK, linewidth=1.5)
        axes.plot(rows["lds"], height, "o", color="#0072b2")
        axes.axvline(0, color=style.INK, linewidth=0.8)
        if len(ceiling):
            top = ceiling.set_index("target").loc[target]
            if np.isfinite(top["low"]):  # the mean of the targets has no interval
                axes.axvspan(top["low"], top["high"], color="#d55e00", alpha=0.15, linewidth=0)
            axes.axvline(top["ceiling"], color="#d55e00", linewidth=1.5, linestyle="--")
        axes.set_title(_target_name(target))
        axes.set(xlabel="LDS", yticks=height, yticklabels=[METHOD_NAMES[m] for m in methods])
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
    panels[0][0].invert_yaxis()
    return figure


@style.drawn
def dampings(frame: pd.DataFrame) -> Figure:
    """Draw the LDS against the damping. Columns: method, target, damping, lds, low, high."""
    frame = frame[frame["damping"].notna()]
    targets = sorted(frame["target"].unique(), key=lambda t: (t == MEAN, t), reverse=True)
    figure, panels = plt.subplots(1, len(targets), figsize=(6.8, 3.4), sharey=True, squeeze=False)
    for axes, target in zip(panels[0], targets, strict=True):
        for method in in_order(frame["method"]):
            rows = frame[(frame["target"] == target) & (frame["method"] == method)].sort_values("damping")
            colour, marker = LINES[method]
            axes.plot(rows["damping"], rows["lds"], color=colour, marker=marker, label=METHOD_NAMES[method])
            axes.fill_between(
                rows["damping"], rows["low"], rows["high"], color=colour, alpha=0.08, linewidth=0
            )
        axes.set_title(_target_name(target))
        axes.set(xscale="log", xlabel="damping")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    panels[0][0].set_ylabel("LDS")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@style.drawn
def removal(frame: pd.DataFrame) -> Figure:
    """Draw what removing examples did. Columns: method, target, end, fraction, change, low, high.

    A few methods are lines over the part that is removed; more of them are rows, at the largest part.
    """
    targets = sorted(frame["target"].unique(), reverse=True)
    if frame["method"].nunique() > MOST_LINES:
        return _removal_rows(frame, targets)
    figure, panels = plt.subplots(1, len(targets), figsize=(6.8, 3.8), sharey=True, squeeze=False)
    methods = [method for method in in_order(frame["method"]) if method != "random"]
    fallback = ("#24292e", "o")
    for axes, target in zip(panels[0], targets, strict=True):
        part = frame[frame["target"] == target]
        for shift, method in enumerate(methods):
            colour, marker = LINES.get(method, fallback)
            for end, (dash, words) in ENDS.items():
                rows = part[(part["method"] == method) & (part["end"] == end)].sort_values("fraction")
                _curve(axes, rows, colour, marker, dash, f"{METHOD_NAMES[method]}, {words}", 0.004 * shift)
        rows = part[part["method"] == "random"].sort_values("fraction")
        _curve(axes, rows, style.INK, "_", ":", "random", -0.004)
        axes.axhline(0, color=style.INK, linewidth=0.8)
        axes.set_title(_target_name(target))
        axes.set_xlabel("part of the examples removed")
    panels[0][0].set_ylabel("change of the target (nats)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    return figure


def removal_words(frame: pd.DataFrame) -> str:
    """Return what :func:`removal` draws of the parts that were removed, as a caption goes on."""
    if frame["method"].nunique() <= MOST_LINES:
        return ", by part of the examples removed"
    others = "; the data have every part" if frame["fraction"].nunique() > 1 else ""
    return f", without {frame['fraction'].max():.0%} of the examples{others}"


def _removal_rows(frame: pd.DataFrame, targets: list[str]) -> Figure:
    fraction = frame["fraction"].max()
    largest = frame[frame["fraction"] == fraction]
    methods = in_order(largest["method"])
    size = (6.8, 1.4 + 0.32 * len(methods))
    figure, panels = plt.subplots(1, len(targets), figsize=size, sharey=True, squeeze=False)
    for axes, target in zip(panels[0], targets, strict=True):
        for row in each_row(largest[largest["target"] == target]):
            colour, marker, shift = ROWS.get(row.end, (style.INK, "D", 0.0))
            y = methods.index(row.method) + shift
            axes.hlines(y, row.low, row.high, color=colour, linewidth=1.2)
            axes.plot(row.change, y, marker, color=colour, markersize=5)
        axes.axvline(0, color=style.INK, linewidth=0.8)
        axes.set_title(_target_name(target))
        names = [METHOD_NAMES[method] for method in methods]
        axes.set(
            xlabel=f"change without {fraction:.0%} (nats)", yticks=range(len(methods)), yticklabels=names
        )
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
    panels[0][0].invert_yaxis()
    handles = [
        plt.Line2D([], [], color=colour, marker=marker, label=f"without the {ENDS[end][1]}")
        for end, (colour, marker, _) in ROWS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _curve(
    axes: plt.Axes, rows: pd.DataFrame, colour: str, marker: str, dash: str, label: str, shift: float
) -> None:
    """Draw changes with intervals, from no change at nothing removed."""
    at = np.concatenate([[0.0], rows["fraction"] + shift])
    axes.plot(at, np.concatenate([[0.0], rows["change"]]), dash, color=colour, linewidth=1.3)
    axes.errorbar(
        rows["fraction"] + shift,
        rows["change"],
        yerr=[rows["change"] - rows["low"], rows["high"] - rows["change"]],
        fmt=marker,
        color=colour,
        linewidth=1.2,
        fillstyle="none" if dash == "--" else "full",
        label=label,
    )


@style.drawn
def choices(frame: pd.DataFrame) -> Figure:
    """Draw the LDS of each choice of target.

    Columns: tokens, responses, balanced, domain, lds, low, high, outcome, outcome_low, outcome_high.
    """
    domains = sorted(frame["domain"].unique(), reverse=True)
    labels = list(dict.fromkeys(choice_name(row) for row in each_row(frame)))
    figure, panels = plt.subplots(
        1, len(domains), figsize=(6.8, 1.2 + 0.26 * len(labels)), sharey=True, squeeze=False
    )
    for axes, domain in zip(panels[0], domains, strict=True):
        for row in each_row(frame[frame["domain"] == domain]):
            y = labels.index(choice_name(row))
            axes.hlines(y - 0.13, row.low, row.high, color="#0072b2", linewidth=1.2)
            axes.plot(row.lds, y - 0.13, "o", color="#0072b2", markersize=5)
            axes.hlines(y + 0.13, row.outcome_low, row.outcome_high, color="#d55e00", linewidth=1.2)
            axes.plot(row.outcome, y + 0.13, "s", color="#d55e00", markersize=5)
        axes.axvline(0, color=style.INK, linewidth=0.8)
        axes.set_title(_target_name(domain))
        axes.set(xlabel="LDS", yticks=range(len(labels)), yticklabels=labels)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
    panels[0][0].invert_yaxis()
    handles = [
        plt.Line2D([], [], color="#0072b2", marker="o", label="of the choice's own log-likelihood"),
        plt.Line2D([], [], color="#d55e00", marker="s", label="of the reference's final answers"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=1)
    return figure


def choice_name(row: Any) -> str:
    """Return a choice of target in words."""
    tokens = {"whole": "whole response", "critical": "critical tokens", "final": "final answer"}
    return f"{tokens[row.tokens]}, {row.responses}{', balanced' if row.balanced else ''}"


CHANGE_LINES = {"removed": ("#d55e00", "v"), "doubled": ("#0072b2", "^")}
"""Colour and marker of what is done to a group."""


def group_name(row: Any) -> str:
    """Return how a group of training examples is written: its domain, and its category or its level."""
    domain, category = style.name_of(row.domain), getattr(row, "category", None)
    if isinstance(category, str):
        return f"{domain}, {category}"
    # NaN where the data give no level; records of earlier runs have no categories.
    return f"{domain} {row.difficulty:g}" if pd.notna(row.difficulty) else domain


@style.drawn
def groups(frame: pd.DataFrame) -> Figure:
    """Draw what removing and doubling each group did to each target.

    Columns: target, domain, difficulty, category, change, nats, low, high.
    """
    named = frame.assign(mean=frame["nats"], group=[group_name(row) for row in each_row(frame)])
    series = [(change, *look, named[named["change"] == change]) for change, look in CHANGE_LINES.items()]
    return forest(named, "group", series, "change of log-likelihood (nats per response)")


@style.drawn
def forecasts(frame: pd.DataFrame) -> Figure:
    """Draw each group's outcome against its forecast.

    Columns: target, domain, change, predicted, nats, low, high.
    """
    targets = sorted(frame["target"].unique(), reverse=True)
    figure, panels = plt.subplots(1, len(targets), figsize=(6.4, 3.4), squeeze=False)
    for axes, target in zip(panels[0], targets, strict=True):
        for change, (_, marker) in CHANGE_LINES.items():
            for domain, colour in style.DOMAIN_COLOURS.items():
                part = frame[
                    (frame["target"] == target) & (frame["change"] == change) & (frame["domain"] == domain)
                ]
                error = np.abs(part[["low", "high"]].T.to_numpy(float) - part["nats"].to_numpy(float))
                axes.errorbar(
                    part["predicted"],
                    part["nats"],
                    yerr=error,
                    fmt=marker,
                    color=colour,
                    label=f"{style.name_of(domain)} {change}",
                    linewidth=1,
                )
        axes.axhline(0, color=style.INK, linewidth=1)
        axes.axvline(0, color=style.INK, linewidth=1)
        axes.set_title(_target_name(target))
        axes.set_xlabel("forecast (sum of scores)")
        # Sums of scores have many digits: labels of more than a few ticks touch.
        axes.xaxis.set_major_locator(MaxNLocator(3))
    panels[0][0].set_ylabel("change (nats per response)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure
