"""Every figure of the book: one function each, a data frame in and a matplotlib figure out.

Functions draw and compute nothing. Intervals are columns ``low`` and ``high``; sizes of
samples stand in titles or captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from infra_lib import style
from infra_lib.frames import rows as each_row


@style.drawn
def length_by_difficulty(frame: pd.DataFrame) -> Figure:
    """Draw solution lengths. Columns: domain, difficulty, characters."""
    frame = frame[frame["difficulty"].notna()]
    if frame.empty:
        return nothing("no training example has a difficulty")
    figure, axes = plt.subplots()
    sns.boxplot(
        frame,
        x="difficulty",
        y="characters",
        hue="domain",
        palette=style.DOMAIN_COLOURS,
        hue_order=list(style.DOMAIN_COLOURS),
        width=0.7,
        gap=0.15,
        linewidth=1,
        linecolor=style.INK,
        fliersize=1.5,
        ax=axes,
    )
    axes.set(xlabel="difficulty of the problem", ylabel="characters in the solution")
    _legend(axes)
    return figure


@style.drawn
def loss_curves(frame: pd.DataFrame) -> Figure:
    """Draw training losses. Columns: tokens, loss, base_seed."""
    figure, axes = plt.subplots(figsize=(6.0, 3.2))
    for dash, (seed, rows) in zip(("-", "--", ":", "-."), frame.groupby("base_seed"), strict=False):
        axes.plot(rows["tokens"] / 1e6, rows["loss"], dash, label=f"base {seed}")
    axes.set(xlabel="million tokens seen", ylabel="loss (nats per token)", yscale="log")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    _legend(axes)
    return figure


@style.drawn
def accuracy_by_difficulty(frame: pd.DataFrame) -> Figure:
    """Draw accuracy against difficulty. Columns: domain, difficulty, mean, low, high."""
    frame = frame[frame["difficulty"].notna()]
    if frame.empty:
        return nothing("no problem of the exam has a difficulty")
    figure, axes = plt.subplots()
    for shift, (domain, rows) in zip((-0.05, 0.05), frame.groupby("domain", sort=False), strict=False):
        _points(
            axes,
            rows["difficulty"].astype(float) + shift,
            rows,
            colour=style.DOMAIN_COLOURS.get(str(domain)),
            marker=style.DOMAIN_MARKERS.get(str(domain), "o"),
            label=style.name_of(domain),
        )
    axes.set(xlabel="difficulty of the problem", ylabel="accuracy (pass@1)", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes)
    return figure


@style.drawn
def influence_heatmap(frame: pd.DataFrame) -> Figure:
    """Draw mean influence of groups. Columns: target, domain, difficulty, mean."""
    frame = frame[frame["difficulty"].notna()]
    if frame.empty:
        return nothing("no training example has a difficulty")
    targets = sorted(frame["target"].unique(), reverse=True)
    figure, panels = plt.subplots(1, len(targets), figsize=(6.0, 2.6), squeeze=False)
    bound = float(frame["mean"].abs().max()) or 1.0
    for axes, target in zip(panels[0], targets, strict=True):
        table = frame[frame["target"] == target].pivot(index="domain", columns="difficulty", values="mean")
        table = table.reindex(sorted(table.index, reverse=True)).round(2) + 0.0  # no "-0.00"
        sns.heatmap(
            table,
            cmap=style.DIVERGING,
            center=0,
            vmin=-bound,
            vmax=bound,
            annot=True,
            fmt="+.2f",
            annot_kws={"size": 9},
            linewidths=2,
            linecolor="none",
            cbar=False,
            ax=axes,
        )
        axes.set_title(f"on {style.name_of(target)}")
        axes.set(xlabel="difficulty of the example", ylabel="")
        axes.set_yticklabels(
            [style.name_of(label.get_text()) for label in axes.get_yticklabels()], rotation=90
        )
        axes.grid(False)
    return figure


@style.drawn
def influence_forest(frame: pd.DataFrame) -> Figure:
    """Draw mean influence with intervals. Columns: target, domain, difficulty, mean, low, high."""
    frame = frame[frame["difficulty"].notna()]
    if frame.empty:
        return nothing("no training example has a difficulty")
    targets = sorted(frame["target"].unique(), reverse=True)
    figure, panels = plt.subplots(1, len(targets), figsize=(6.0, 3.6), sharey=True, squeeze=False)
    for axes, target in zip(panels[0], targets, strict=True):
        part = frame[frame["target"] == target]
        for shift, (domain, rows) in zip((-0.12, 0.12), part.groupby("domain", sort=False), strict=False):
            _points(
                axes,
                rows["difficulty"].astype(float) + shift,
                rows,
                colour=style.DOMAIN_COLOURS.get(str(domain)),
                marker=style.DOMAIN_MARKERS.get(str(domain), "o"),
                label=f"{style.name_of(domain)} examples",
                joined=False,
            )
        axes.axhline(0, color=style.INK, linewidth=1)
        axes.set_title(f"on {style.name_of(target)}")
        axes.set_xlabel("difficulty of the example")
    panels[0][0].set_ylabel("mean influence (sd)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


@style.drawn
def arm_composition(frame: pd.DataFrame) -> Figure:
    """Draw what arms train on. Columns: arm, domain, difficulty, examples."""
    domains = sorted(frame["domain"].unique(), reverse=True)
    arms = style.in_order(frame["arm"])
    figure, panels = plt.subplots(
        1, len(domains), figsize=(6.0, 1.3 + 0.42 * len(arms)), sharey=True, squeeze=False
    )
    levels = sorted(frame["difficulty"].unique())
    shades = sns.color_palette("viridis", len(levels))
    for axes, domain in zip(panels[0], domains, strict=True):
        table = frame[frame["domain"] == domain].pivot(index="arm", columns="difficulty", values="examples")
        table = table.reindex(index=arms, columns=levels).fillna(0)
        left = np.zeros(len(arms))
        for shade, level in zip(shades, levels, strict=True):
            axes.barh(
                [style.name_of(a) for a in arms],
                table[level],
                left=left,
                color=shade,
                label=str(level or "none"),
            )
            left += table[level].to_numpy()
        axes.set_title(style.name_of(domain))
        axes.set_xlabel("training examples")
        axes.grid(False)
    panels[0][0].invert_yaxis()
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, title="difficulty", loc="outside lower center", ncols=len(levels))
    return figure


@style.drawn
def arms(frame: pd.DataFrame) -> Figure:
    """Draw accuracy of arms with intervals. Columns: arm, domain, mean, low, high."""
    domains = sorted(frame["domain"].unique(), reverse=True)
    names = style.in_order(frame["arm"])
    figure, panels = plt.subplots(
        1, len(domains), figsize=(6.0, 1.1 + 0.42 * len(names)), sharey=True, squeeze=False
    )
    for axes, domain in zip(panels[0], domains, strict=True):
        rows = frame[frame["domain"] == domain].set_index("arm").loc[names].reset_index()
        for position, row in enumerate(each_row(rows)):
            axes.errorbar(
                [row.mean],
                [position],
                xerr=[[row.mean - row.low], [row.high - row.mean]],
                fmt=style.ARM_MARKERS.get(row.arm, "o"),
                color=style.ARM_COLOURS.get(row.arm, style.INK),
                capsize=0,
                linewidth=2,
            )
        axes.set_yticks(range(len(names)), [style.name_of(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(style.name_of(domain))
        axes.set_xlabel("accuracy (pass@1)")
        axes.grid(axis="x")
        axes.grid(False, axis="y")
    return figure


@style.drawn
def paired_differences(frame: pd.DataFrame) -> Figure:
    """Draw paired differences. Columns: arm_a, arm_b, domain, difference, low, high."""
    labels = [f"{style.name_of(r.arm_a)} − {style.name_of(r.arm_b)}" for r in each_row(frame)]
    return effects(frame.assign(label=labels, mean=frame["difference"]), unit="difference in accuracy")


def nothing(why: str) -> Figure:
    """Return a figure that says why there is nothing to draw."""
    figure, axes = plt.subplots(figsize=(6.0, 0.8))
    axes.text(0.5, 0.5, why, ha="center", va="center")
    axes.set_axis_off()
    return figure


def forest(
    frame: pd.DataFrame, column: str, series: list[tuple[str, str, str, pd.DataFrame]], label: str
) -> Figure:
    """Draw one panel per target and one row per kind; series stand a little apart. No rows, no plot."""
    if frame.empty:
        return nothing("no target of these is of the training examples' domain")
    targets = sorted(frame["target"].unique(), reverse=True)
    kinds = list(dict.fromkeys(frame[column]))
    figure, panels = plt.subplots(
        1, len(targets), figsize=(6.0, 1.4 + 0.42 * len(kinds)), sharey=True, squeeze=False
    )
    for axes, target in zip(panels[0], targets, strict=True):
        for shift, (name, colour, marker, part) in zip((-0.14, 0.14), series, strict=False):
            rows = part[part["target"] == target]
            mean = rows["mean"].astype(float).to_numpy()
            error = np.abs(rows[["low", "high"]].astype(float).T.to_numpy() - mean)
            at = [kinds.index(kind) + shift for kind in rows[column]]
            axes.errorbar(mean, at, xerr=error, fmt=marker, color=colour, label=name, capsize=0, linewidth=2)
        axes.axvline(0, color=style.INK, linewidth=1)
        axes.set_title(f"on {style.name_of(target)}")
        axes.grid(axis="x")
        axes.grid(False, axis="y")
    panels[0][0].set_yticks(range(len(kinds)), kinds)
    panels[0][0].set_ylim(len(kinds) - 0.5, -0.5)
    figure.supxlabel(label, fontsize="medium")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


@style.drawn
def effects(frame: pd.DataFrame, *, unit: str, labels: Sequence[str] | None = None) -> Figure:
    """Draw a forest plot, one row per label. Columns: label, domain, mean, low, high; no rows, no plot."""
    if frame.empty:
        return nothing("not measured in this study")
    names = list(labels or dict.fromkeys(frame["label"]))
    figure, axes = plt.subplots(figsize=(6.0, 1.2 + 0.62 * len(names)))
    domains = sorted(frame["domain"].unique(), reverse=True)
    for shift, domain in zip((-0.13, 0.13), domains, strict=False):
        rows = frame[frame["domain"] == domain]
        at = [names.index(label) + shift for label in rows["label"]]
        error = np.abs(
            rows[["low", "high"]].astype(float).T.to_numpy() - rows["mean"].astype(float).to_numpy()
        )
        axes.errorbar(
            rows["mean"].astype(float),
            at,
            xerr=error,
            fmt=style.DOMAIN_MARKERS.get(str(domain), "o"),
            color=style.DOMAIN_COLOURS.get(str(domain), style.INK),
            label=style.name_of(domain),
            capsize=0,
            linewidth=2,
        )
    axes.axvline(0, color=style.INK, linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(unit)
    axes.grid(axis="x")
    axes.grid(False, axis="y")
    handles, texts = axes.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper center", ncols=len(domains))
    return figure


PHONE = 9.5
"""Points of letters in a figure of five inches; a phone of 390 pixels shows them at nine pixels."""


@style.drawn
def verdicts(frame: pd.DataFrame) -> Figure:
    """Draw every measured effect with its interval, by verdict, beside the direction that is reported.

    One panel per unit; an effect's name stands above its interval, so that a narrow screen has room for
    both. Columns: test, says, direction (up, down), mean, low, high, unit, verdict.
    """
    units = list(dict.fromkeys(frame["unit"]))
    counts = [int((frame["unit"] == unit).sum()) for unit in units] or [1]
    figure, panels = plt.subplots(
        len(counts),
        1,
        # As high as the first screen of the landing page has room for.
        figsize=(5.1, 0.4 + 0.36 * len(counts) + 0.247 * sum(counts)),
        squeeze=False,
        height_ratios=counts,
    )
    for axes, unit in zip(panels[:, 0], units, strict=False):
        part = frame[frame["unit"] == unit].reset_index(drop=True)
        reach = 1.1 * float(part[["low", "high", "mean"]].abs().max(axis=None)) or 1.0
        for at, row in enumerate(each_row(part)):
            colour, marker = style.VERDICT_COLOURS[row.verdict], style.VERDICT_MARKERS[row.verdict]
            side = 1 if row.direction == "up" else -1
            axes.text(-reach, at - 0.32, f"{row.test}  {row.says}", fontsize=PHONE, va="center")
            axes.plot([0, 0], [at + 0.03, at + 0.25], color=style.INK, linewidth=1)
            axes.plot([-reach, reach], [at + 0.14] * 2, color=style.LINES, linewidth=0.8, zorder=0)
            axes.plot(
                [row.low, row.high], [at + 0.14] * 2, color=colour, solid_capstyle="butt", linewidth=2.5
            )
            axes.plot(row.mean, at + 0.14, marker, color=colour, markersize=5.5)
            axes.plot(
                1.04 * side * reach, at + 0.14, ">" if side > 0 else "<", color=style.INK, markersize=4.5
            )
        axes.set(ylim=(len(part) - 0.4, -0.6), xlim=(-1.08 * reach, 1.08 * reach), yticks=[])
        axes.set_xlabel(style.UNITS.get(unit, unit), fontsize=PHONE)
        axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
        axes.tick_params(axis="x", labelsize=PHONE)
        axes.spines["left"].set_visible(False)
        axes.grid(False)
    handles = [
        Line2D([], [], color=colour, marker=style.VERDICT_MARKERS[name], label=name, linewidth=2.5)
        for name, colour in style.VERDICT_COLOURS.items()
    ]
    handles.append(Line2D([], [], color=style.INK, marker=">", label="side reported", linestyle="none"))
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=4,
        fontsize=PHONE,
        columnspacing=0.9,
        handletextpad=0.3,
        handlelength=1.3,
    )
    return figure


@style.drawn
def arms_by_difficulty(frame: pd.DataFrame) -> Figure:
    """Draw accuracy of arms against difficulty. Columns: arm, domain, difficulty, mean, low, high."""
    frame = frame[frame["difficulty"].notna()]
    if frame.empty:
        return nothing("no problem of the exam has a difficulty")
    domains = sorted(frame["domain"].unique(), reverse=True)
    names = style.in_order(frame["arm"])
    figure, panels = plt.subplots(1, len(domains), figsize=(6.0, 3.6), sharey=True, squeeze=False)
    for axes, domain in zip(panels[0], domains, strict=True):
        for k, name in enumerate(names):
            rows = frame[(frame["domain"] == domain) & (frame["arm"] == name)]
            shift = 0.1 * (k - (len(names) - 1) / 2)
            _points(
                axes,
                rows["difficulty"].astype(float) + shift,
                rows,
                colour=style.ARM_COLOURS[name],
                marker=style.ARM_MARKERS[name],
                label=style.name_of(name),
            )
        axes.set_title(style.name_of(domain))
        axes.set(xlabel="difficulty of the problem", ylim=(0, 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0][0].set_ylabel("accuracy (pass@1)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(names)))
    return figure


def _points(
    axes: Any,
    x: Any,
    rows: pd.DataFrame,
    *,
    colour: str | None,
    marker: str,
    label: str | None = None,
    joined: bool = True,
) -> None:
    """Draw means with their intervals, joined by a line where the x axis is an order."""
    mean = rows["mean"].astype(float).to_numpy()
    error = np.abs(rows[["low", "high"]].astype(float).T.to_numpy() - mean)
    line = "-" if joined else "none"
    axes.errorbar(x, mean, yerr=error, color=colour, marker=marker, linestyle=line, label=label, capsize=0)


def _legend(axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, [style.name_of(label) for label in labels], title=None)
