"""Figures of the method page: one function each, a data frame in and a matplotlib figure out."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from infra_lib import style

METHOD_NAMES = {
    "ekfac": "EK-FAC",
    "refined": "refined",
    "refined_minibatches": "minibatches",
    "kfac": "KFAC",
    "diagonal": "diagonal",
    "identity": "gradient dot",
    "gradcos": "gradient cosine",
}
"""Methods in the order of figures, and how they are written."""

METHOD_COLOURS = {"ekfac": "#0072b2", "kfac": "#e69f00", "diagonal": "#009e73"}
METHOD_MARKERS = {"ekfac": "o", "kfac": "s", "diagonal": "^"}
SOLVER_LINES = {"conjugate gradients": "-", "minibatches": "--"}


_COUNTS = ListedColormap(plt.get_cmap("viridis")(np.linspace(0.3, 1, 256)))
"""Counts: viridis without its darkest part, which a dark page hides."""


def in_order(methods: Iterable[str]) -> list[str]:
    """Return the methods that occur, in the order in which figures show them."""
    known = list(METHOD_NAMES)
    return sorted(set(methods), key=lambda m: known.index(m) if m in known else len(known))


@style.drawn
def readings(frame: pd.DataFrame, *, inner: float = 0.98) -> Figure:
    """Draw how often each pair of readings occurs. Columns: target, loss, position.

    Parameters
    ----------
    inner
        Part of the tokens, by size of either reading, that the axes span.
    """
    targets = sorted(frame["target"].unique(), reverse=True)
    figure, panels = plt.subplots(
        1, len(targets), figsize=(6.8, 4.4), squeeze=False, sharex=True, sharey=True
    )
    bound = float(frame[["loss", "position"]].abs().max(axis=1).quantile(inner)) or 1.0
    for axes, target in zip(panels[0], targets, strict=True):
        part = frame[frame["target"] == target]
        drawn = axes.hexbin(
            part["loss"],
            part["position"],
            gridsize=26,
            extent=(-bound, bound, -bound, bound),
            bins="log",
            mincnt=1,
            cmap=_COUNTS,
            linewidths=0,
        )
        axes.axline((0, 0), slope=1, color=style.INK, linewidth=1, linestyle=":")
        axes.set(xlim=(-bound, bound), ylim=(-bound, bound), aspect="equal")
        axes.set_title(f"on {style.name_of(target)}, n = {len(part):,}")
        axes.set_xlabel("loss-term reading (nats)")
        axes.grid(False)
    panels[0][0].set_ylabel("position reading (nats)")
    bar = figure.colorbar(drawn, ax=list(panels[0]), location="bottom", shrink=0.5, aspect=30)
    bar.set_label("tokens in a cell")
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.outline.set_visible(False)
    return figure


@style.drawn
def damping_sweep(frame: pd.DataFrame, *, damping: float) -> Figure:
    """Draw rank agreement with the default damping. Columns: target, method, damping, spearman."""
    targets = sorted(frame["target"].unique(), reverse=True)
    figure, panels = plt.subplots(1, len(targets), figsize=(6.8, 3.4), sharey=True, squeeze=False)
    for axes, target in zip(panels[0], targets, strict=True):
        for method in in_order(set(frame["method"]) & set(METHOD_COLOURS)):
            rows = frame[(frame["target"] == target) & (frame["method"] == method)].sort_values("damping")
            axes.plot(
                rows["damping"],
                rows["spearman"],
                color=METHOD_COLOURS.get(method, style.INK),
                marker=METHOD_MARKERS.get(method, "D"),
                label=METHOD_NAMES[method],
            )
        axes.axvline(damping, color=style.INK, linewidth=1, linestyle=":")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_title(f"on {style.name_of(target)}")
        axes.set_xlabel("damping (× mean eigenvalue)")
        axes.set_ylim(np.floor(10 * float(frame["spearman"].min()) - 0.5) / 10, 1.02)
    panels[0][0].set_ylabel("Spearman with the default")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


@style.drawn
def method_heatmap(frame: pd.DataFrame) -> Figure:
    """Draw rank agreement between methods. Columns: target, first, second, spearman."""
    targets = sorted(frame["target"].unique(), reverse=True)
    names = in_order(frame["first"])
    figure, panels = plt.subplots(1, len(targets), figsize=(6.8, 3.9), sharey=True, squeeze=False)
    for axes, target in zip(panels[0], targets, strict=True):
        table = frame[frame["target"] == target].pivot(index="first", columns="second", values="spearman")
        table = table.reindex(index=names, columns=names).round(2) + 0.0  # no "-0.00"
        sns.heatmap(
            table,
            cmap=style.DIVERGING,
            vmin=-1,
            vmax=1,
            annot=True,
            fmt=".2f",
            annot_kws={"size": 8.5},
            linewidths=1.5,
            linecolor="none",
            cbar=False,
            square=True,
            ax=axes,
        )
        axes.set_title(f"on {style.name_of(target)}")
        axes.set(xlabel="", ylabel="")
        axes.set_xticklabels([METHOD_NAMES[n] for n in names], rotation=40, ha="right")
        axes.set_yticklabels([METHOD_NAMES[n] for n in names], rotation=0)
        axes.grid(False)
    return figure


@style.drawn
def convergence(frame: pd.DataFrame) -> Figure:
    """Draw how refinement goes on. Columns: solver, damping, target, passes, natural, gain."""
    dampings = sorted(frame["damping"].unique())
    figure, panels = plt.subplots(
        2, len(dampings), figsize=(6.8, 5.2), squeeze=False, sharex=True, sharey="row"
    )
    for column, damping in enumerate(dampings):
        part = frame[frame["damping"] == damping]
        for (solver, target), rows in part.groupby(["solver", "target"], sort=False):
            ordered = rows.sort_values("passes")
            for axes, value in zip(panels[:, column], ("natural", "gain"), strict=True):
                axes.plot(
                    ordered["passes"],
                    ordered[value],
                    SOLVER_LINES[str(solver)],
                    color=style.DOMAIN_COLOURS.get(str(target), style.INK),
                    marker=style.DOMAIN_MARKERS.get(str(target), "o"),
                    markersize=5,
                    label=f"{style.name_of(target)}, {solver}",
                )
        panels[0][column].set_title(f"damping {damping:g}")
        panels[1][column].set_xlabel("passes over the examples")
    for axes in panels.flat:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    panels[0][0].set_ylabel("relative residual")
    panels[1][0].set_ylabel("gain over EK-FAC")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
