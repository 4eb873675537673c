"""What attribution costs: tables and figures from the recorded benchmarks, as the book shows them.

The benchmarks (``benchmarks/``) run apart from a build, on a quiet machine, and leave their record
in ``records/benchmarks``. Where there is none, the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from scipy.stats import linregress

from infra_lib import style
from infra_lib.frames import rows as each_row
from infra_lib.performance.shown import copied_record, read_record, shown, target_row
from infra_lib.tables import NOT_AVAILABLE, badge, escape, html_table

STEPS = {"token scores": ("#0072b2", "o"), "position scores": ("#d55e00", "s"), "fitting": ("#7f7f7f", "^")}
LIBRARIES = {
    "this library": ("#0072b2", "o", "-"),
    "kronfluence": ("#7f7f7f", "s", "--"),
    "bergson": ("#d55e00", "^", ":"),
}
SCORES = "token, sentence and example scores"
OLD = "The recorded benchmark is of another version: <code>make benchmark</code> makes it again."
MISSING = "No benchmark is recorded here: `make benchmark` runs them and leaves their record."


def write_performance(root: Path, results: Path) -> dict[str, str]:
    """Draw the figures into ``results/figures/performance`` and return the page's fragments by name."""
    folder = results / "figures" / "performance"
    style.apply()
    fragments = {"performance_ratios": MISSING, "performance_cost": MISSING, "performance_memory": ""}
    fragments["performance_scaling"] = fragments["performance_compiled"] = MISSING
    record = read_record(root, "benchmarks/attribution")
    if record and not all("peers" in row for row in record["summary"]):
        fragments["performance_ratios"] = OLD
    elif record:
        fragments["performance_ratios"] = "\n\n".join(
            (origin(record), targets_table(record), *ratio_tables(record), remarks(record))
        )
        frame = memory_frame(record)
        fragments["performance_memory"] = shown(
            folder,
            "memory",
            memory_figure(frame),
            frame,
            results=copied_record(root, results, "benchmarks/attribution"),
            alt="Peak memory above the loaded model against the number of parameters, on logarithmic axes, "
            "for fitting factors and for scoring, this library beside others. "
            + " ".join(
                f"{r.library}, {r.step}, {r.parameters / 1e6:.1f} million parameters: {r.mebibytes:.0f} MiB."
                for r in each_row(frame)
            ),
            caption="Peak resident memory above that of the loaded model, each measured in a process of its "
            f"own (n = {frame['repeats'].min()} to {frame['repeats'].max()} repetitions, the lowest shown).",
        )
    scaling = [read_record(root, name) for name in ("benchmarks/scaling", "gpu/scaling")]
    if any(scaling):
        fragments["performance_scaling"] = "\n\n".join(
            f"{origin(record)}\n\n{scaling_table(record)}" for record in scaling if record
        )
    compiled = [read_record(root, name) for name in ("benchmarks/compiled", "gpu/compiled")]
    if any(compiled):
        fragments["performance_compiled"] = "\n\n".join(
            f"{origin(record)}\n\n{compiled_table(record)}" for record in compiled if record
        )
    if record := read_record(root, "benchmarks/cost"):
        frame = pd.DataFrame(record["points"])
        frame["forwards"] = frame["seconds"] / frame["forward_seconds"]
        fragments["performance_cost"] = f"{origin(record)}\n\n" + shown(
            folder,
            "cost",
            cost_figure(frame),
            frame,
            results=copied_record(root, results, "benchmarks/cost"),
            alt="Left: processor seconds against training tokens for fitting, token scores and position "
            "scores. Right: plain forward passes that scoring costs against the number of targets. "
            + " ".join(
                f"{r.what}, {r.tokens} tokens, {r.targets} targets: {r.seconds:.2f} s, {r.forwards:.1f} "
                "forward passes."
                for r in each_row(frame)
            ),
            caption="Processor seconds of one thread against training tokens (two targets), with straight "
            "lines of least squares; and cost against the number of targets, in plain "
            f"forward passes over the same tokens (fastest of {frame['repeats'].max()} repetitions). "
            f"Lines: {cost_words(cost_lines(frame))}. Against targets: {target_words(frame)}.",
        )
    return fragments


def origin(record: dict[str, Any]) -> str:
    """Return the badge of a recorded run, and what it ran on."""
    environment = record["environment"]
    title = f"commit {environment['commit'][:12]}, {record['started'][:10]}"
    versions = {"torch": environment["versions"]["torch"], **record.get("peers", {})}
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    threads = record["settings"]["threads"]
    return (
        f"{badge('recorded', title)} {escape(title)}; {escape(environment['device'])}, {threads} thread"
        f"{'s' if threads != 1 else ''}, {escape(record['settings']['dtype'])}; {escape(libraries)}."
    )


def scaling_table(record: dict[str, Any]) -> str:
    """Return what several processes gain over one, and what the machine would let them gain."""
    runs, count = pd.DataFrame(record["runs"]), record["settings"]["processes"]
    best = runs.groupby(["step", "what"], sort=False)["seconds"].min().unstack()
    rows = []
    for step, found in best.iterrows():
        gain, most = found["one"] / found["together"], count * found["one"] / found["side by side"]
        rows.append(
            [
                escape(str(step)),
                f"{found['one']:.2f}",
                f"{found['together']:.2f}",
                f"<strong>{gain:.2f}</strong>",
                f"{most:.2f}",
                f"{gain / most:.0%}",
                str(runs["repeat"].nunique()),
            ]
        )
    headers = ["what", "one process, s", f"{count} processes, s", "times as fast"]
    headers += ["the machine allows", "of that", "n"]
    return html_table(headers, rows, left=1, label=f"{count} processes beside one", stacked=True)


def compiled_table(record: dict[str, Any]) -> str:
    """Return what compiling the scoring pass gains, what it takes, and from how many tokens on it pays."""
    runs, rows = pd.DataFrame(record["runs"]), []
    for _, part in runs.groupby("size", sort=False):
        plain = part[part["way"] == "as it is"].iloc[0]
        for run in part[part["way"] != "as it is"].itertuples():
            gain = (plain["seconds"] - run.seconds) / run.tokens
            pays = f"{(run.first_seconds - plain['first_seconds']) / gain:,.0f}" if gain > 0 else "never"
            rows.append(
                [
                    f"{run.parameters / 1e6:.1f}",
                    escape(str(run.way)),
                    f"{1e3 * plain['seconds'] / run.tokens:.3f}",
                    f"{1e3 * run.seconds / run.tokens:.3f}",
                    f"<strong>{plain['seconds'] / run.seconds:.2f}</strong>",
                    f"{run.first_seconds:.0f}",
                    pays,
                    f"{run.difference:.0e}",
                    str(run.repeats),
                ]
            )
    headers = ["million parameters", "way", "as it is, ms a token", "compiled, ms a token", "times as fast"]
    headers += ["compiling, s a shape", "pays from tokens of a shape", "relative difference", "n"]
    return html_table(headers, rows, left=2, label="Scoring compiled", stacked=True)


def ratio_tables(record: dict[str, Any]) -> list[str]:
    """Return a table for each peer, ours beside it; one of ours alone where no peer was there."""
    peers = [name for name in LIBRARIES if any(name in row["peers"] for row in record["summary"])]
    return [_ratio_table(record, peer) for peer in peers or ["kronfluence"]]


def _ratio_table(record: dict[str, Any], peer: str) -> str:
    rows = []
    for row in record["summary"]:
        theirs = row["peers"].get(peer)
        rows.append(
            [
                f"{row['parameters'] / 1e6:.1f}",
                escape(row["what"].replace(SCORES, "all three scores")),
                f"{row['seconds']:.2f}",
                f"{theirs['seconds']:.2f}" if theirs else NOT_AVAILABLE,
                f"<strong>{theirs['seconds'] / row['seconds']:.2f}</strong>" if theirs else NOT_AVAILABLE,
                f"{row['seconds'] / row['forward_seconds']:.1f}",
                f"{row['peak_bytes'] / 2**20:.0f}",
                f"{theirs['peak_bytes'] / 2**20:.0f}" if theirs else NOT_AVAILABLE,
                f"<strong>{row['peak_bytes'] / theirs['peak_bytes']:.2f}</strong>"
                if theirs
                else NOT_AVAILABLE,
                str(row["repeats"]),
            ]
        )
    headers = [
        "million parameters",
        "what",
        "seconds",
        f"{peer}, s",
        "times as fast",
        "in forward passes",
        "peak MiB",
        f"{peer}, MiB",
        "memory ratio",
        "n",
    ]
    return html_table(headers, rows, left=2, label=f"Cost beside {peer}", stacked=True)


def targets_table(record: dict[str, Any]) -> str:
    """Return what was asked of a CPU at the largest model, and what was measured."""
    largest = max(row["parameters"] for row in record["summary"])
    rows = {row["what"]: row for row in record["summary"] if row["parameters"] == largest}
    fit, scores = rows.get("fitting factors"), rows.get(SCORES)
    if not fit or not scores or not all("kronfluence" in row["peers"] for row in (fit, scores)):
        return ""
    speed = fit["peers"]["kronfluence"]["seconds"] / fit["seconds"]
    share = scores["seconds"] / scores["peers"]["kronfluence"]["seconds"]
    shown_rows = [
        target_row("times as fast as kronfluence in fitting", speed, at_least=1.5),
        target_row("of the time of kronfluence's two per-token runs, all scores", share, at_most=0.7),
    ]
    for what, row in (("fitting", fit), ("scoring", scores)):
        memory = row["peak_bytes"] / row["peers"]["kronfluence"]["peak_bytes"]
        shown_rows.append(target_row(f"of kronfluence's peak memory, {what}", memory, at_most=0.5))
    headers = [f"at {largest / 1e6:.1f} million parameters", "asked", "measured", ""]
    return html_table(headers, shown_rows, left=1, label="Targets on a CPU", stacked=True)


def whole_attribution(summary: Sequence[Mapping[str, Any]], size: str) -> tuple[float, int]:
    """Return seconds and peak bytes of ours from model to scores, at a size of a benchmark's summary."""
    rows = {row["what"]: row for row in summary if row["size"] == size}
    both = [rows["fitting factors"], rows[SCORES]]
    return sum(row["seconds"] for row in both), max(row["peak_bytes"] for row in both)


def remarks(record: dict[str, Any]) -> str:
    """Return the record's notes, and TRAK's time and memory beside ours where it was measured."""
    lines = [f"- {escape(note)}" for note in record["notes"]]
    for run in record["runs"]:
        if run["library"] != "trak":
            continue
        seconds, peak = whole_attribution(record["summary"], run["size"])
        lines.append(
            f"- TRAK through `trak`, example scores at {run['parameters'] / 1e6:.1f} million parameters: "
            f"{run['seconds']:.1f} s and {run['peak_bytes'] / 2**20:.0f} MiB; fitting and scoring here, "
            f"sentences and tokens with it: {seconds:.1f} s and {peak / 2**20:.0f} MiB "
            f"({seconds / run['seconds']:.2f} of the time)"
        )
    return "\n".join(lines)


def memory_frame(record: dict[str, Any]) -> pd.DataFrame:
    """Return peak memory. Columns: library, step, parameters, mebibytes, repeats."""
    kept = {"fitting factors": "fitting factors", SCORES: "scoring"}
    rows = []
    for row in record["summary"]:
        if row["what"] not in kept:
            continue
        for library, measured in {"this library": row, **row["peers"]}.items():
            rows.append(
                {
                    "library": library,
                    "step": kept[row["what"]],
                    "parameters": row["parameters"],
                    "mebibytes": measured["peak_bytes"] / 2**20,
                    "repeats": row["repeats"],
                }
            )
    return pd.DataFrame(rows)


@style.drawn
def memory_figure(frame: pd.DataFrame) -> Figure:
    """Draw peak memory against model size. Columns: library, step, parameters, mebibytes."""
    steps = list(dict.fromkeys(frame["step"]))
    figure, panels = plt.subplots(1, len(steps), figsize=(6.8, 3.2), sharey=True, squeeze=False)
    for axes, step in zip(panels[0], steps, strict=True):
        for library, (colour, marker, line) in LIBRARIES.items():
            part = frame[(frame["step"] == step) & (frame["library"] == library)]
            if part.empty:
                continue
            axes.plot(
                part["parameters"] / 1e6,
                part["mebibytes"],
                line,
                color=colour,
                marker=marker,
                label=library,
            )
        axes.set(xscale="log", yscale="log", xlabel="million parameters")
        # The style shows no mathematics, which logarithmic labels would be.
        sizes = sorted(frame["parameters"].unique() / 1e6)
        axes.set_xticks(sizes, [f"{size:.1f}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(step)
    panels[0][0].set_ylabel("peak memory (MiB)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def _against_tokens(frame: pd.DataFrame, what: str) -> pd.DataFrame:
    # The amount at which targets were varied has other numbers of targets too.
    rows = frame[(frame["what"] == what) & (frame["targets"] == (0 if what == "fitting" else 2))]
    return rows.sort_values("tokens")


def cost_lines(frame: pd.DataFrame) -> pd.DataFrame:
    """Return straight lines through seconds against tokens, by least squares.

    Parameters
    ----------
    frame
        Columns what, tokens, targets, seconds.

    Returns
    -------
    pandas.DataFrame
        what, fixed (seconds), per_thousand (seconds per thousand tokens), r2 (part of the variance), n
        (amounts of tokens); steps with fewer than three amounts are left out.
    """
    rows = []
    for what in STEPS:
        points = _against_tokens(frame, what)
        if points["tokens"].nunique() < 3:
            continue
        found = linregress(points["tokens"] / 1e3, points["seconds"])
        rows.append([what, found.intercept, found.slope, found.rvalue**2, len(points)])
    return pd.DataFrame(rows, columns=["what", "fixed", "per_thousand", "r2", "n"])


def cost_words(lines: pd.DataFrame) -> str:
    """Return lines of :func:`cost_lines` in words."""
    return "; ".join(
        f"{r.what}, {r.fixed:.2f} s and {r.per_thousand:.3f} s per thousand tokens "
        f"(R² {r.r2:.4f}, {r.n} amounts)"
        for r in each_row(lines)
    )


def target_words(frame: pd.DataFrame) -> str:
    """Return straight lines through forward passes against the number of targets, in words.

    Columns what, tokens, targets, forwards; of each step the amount of tokens with most numbers of targets.
    """
    found = []
    for what in STEPS:
        own = frame[(frame["what"] == what) & (frame["targets"] > 0)]
        counts = own.groupby("tokens")["targets"].nunique()
        if counts.empty or counts.max() < 3:
            continue
        points = own[own["tokens"] == counts.idxmax()]
        line = linregress(points["targets"], points["forwards"])
        found.append(
            f"{what}, {line.intercept:.1f} and {line.slope:.1f} a target "
            f"(R² {line.rvalue**2:.3f}, {len(points)} numbers of targets)"
        )
    return "; ".join(found) or "not measured"


@style.drawn
def cost_figure(frame: pd.DataFrame) -> Figure:
    """Draw cost against tokens and targets. Columns: what, tokens, targets, seconds, forwards."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 3.4))
    lines = cost_lines(frame).set_index("what")
    for what, (colour, marker) in STEPS.items():
        rows = _against_tokens(frame, what)
        left.plot(rows["tokens"] / 1e3, rows["seconds"], color=colour, marker=marker, ls="none", label=what)
        if what in lines.index:
            thousands = np.array([0.0, rows["tokens"].max() / 1e3])
            seconds = lines.loc[what, "fixed"] + lines.loc[what, "per_thousand"] * thousands
            left.plot(thousands, seconds, color=colour, linewidth=1, linestyle="--")
    for what, (colour, marker) in STEPS.items():
        rows = frame[(frame["what"] == what) & (frame["targets"] > 0)]
        varied = rows[rows["tokens"] == rows.loc[rows["targets"] != 2, "tokens"].max()].sort_values("targets")
        if len(varied):
            right.plot(varied["targets"], varied["forwards"], color=colour, marker=marker, label=what)
    left.set(xlabel="thousand training tokens", ylabel="processor seconds", xlim=(0, None), ylim=(0, None))
    right.set(xlabel="targets", ylabel="plain forward passes", xlim=(0, None), ylim=(0, None))
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure
