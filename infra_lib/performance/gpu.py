"""What attribution costs on a GPU: from ``records/gpu`` to the book's fragments.

Records are made where a GPU is (``python -m benchmarks.gpu``, ``python -m benchmarks.partition``); here
they are read, checked against the manifest, and shown. Without them the page says what makes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from infra_lib import style
from infra_lib.checksums import check_record
from infra_lib.errors import DataError
from infra_lib.frames import rows as each_row
from infra_lib.performance.gpu_words import (
    NAMES,
    by_length,
    chance,
    eigendecompositions,
    first_attempt,
    held_before,
    partition_words,
)
from infra_lib.performance.shown import copied_record, shown, target_row
from infra_lib.tables import NOT_AVAILABLE, badge, escape, html_table

FOLDER = "gpu"
MISSING_GPU = (
    "No run on a GPU is recorded here. On a machine with one, `python -m benchmarks.gpu` and "
    "`python -m benchmarks.partition` make the records."
)
SERIES = {
    "this library, bfloat16": ("infra", "bfloat16", "#0072b2", "o", "-"),
    "kronfluence, its defaults": ("kronfluence", "float32", "#7f7f7f", "s", "--"),
    "kronfluence, low precision": ("kronfluence", "low precision", "#d55e00", "^", ":"),
}
STEPS = {"infra": ("fit", "direct", "tokens"), "kronfluence": ("fit", "tokens")}
"""What goes from a model to token scores of two targets."""
_GIB = 2**30

READ = {"environment", "driver", "started", "settings", "runs"}
READ_OF_ATTRIBUTION = READ | {"ceilings", "peers"}
READ_OF_RUNS = {"size", "tokens", "library", "dtype", "step", "parameters", "seconds", "peak_bytes"}
"""What the page reads: of every record, of those of attribution, and of their runs that did not fail."""


def write_gpu(root: Path, results: Path) -> dict[str, str]:
    """Draw the figures into ``results/figures/performance`` and return the page's fragments by name.

    Raises
    ------
    DataError
        See :func:`read_records`.
    """
    records = read_records(root)
    names = ["origin", "targets", "ratios", "memory", "roofline", "bounds", "lengths", "agreement"]
    names += ["partition", "first", "held"]
    if not records:
        return {f"gpu_{name}": MISSING_GPU if name == "origin" else "" for name in names}
    style.apply()
    folder = results / "figures" / "performance"
    main = records["attribution"]
    shown_records = [record for name, record in records.items() if name.startswith("attribution")]
    frame = runs_frame(shown_records)
    found = {
        "origin": origin(main, shown_records),
        "targets": targets_table(frame, main),
        "ratios": ratio_table(frame),
        "lengths": lengths_table(frame, main),
        "bounds": "\n\n".join(filter(None, (by_length(frame), eigendecompositions(main)))),
        "agreement": f"{agreement_table(frame)}\n\n{chance(main, shown_records)}",
        "held": held_before(shown_records),
        "partition": "",
        "first": first_attempt(records["first-attempt"], main) if "first-attempt" in records else "",
    }
    if "partition" in records:
        one = records["partition"]
        found["partition"] = f"{partition_table(one)}\n\n{partition_words(one)}"
    behind = copied_record(root, results, f"{FOLDER}/attribution")
    peaks = memory_frame(frame)
    found["memory"] = shown(
        folder,
        "gpu_memory",
        gpu_memory_figure(peaks),
        peaks,
        results=behind,
        alt="Peak memory on the GPU from model to token scores against the number of parameters. "
        + " ".join(
            f"{r.series}, {r.parameters / 1e6:.0f} million parameters: {r.gib:.1f} GiB."
            for r in each_row(peaks)
        ),
        caption="Highest memory on the device, the model included, from the model to token scores of two "
        f"targets, sequences of 512 tokens; n = {int(peaks['n'].min())} to {int(peaks['n'].max())} runs, the "
        "lowest shown.",
    )
    points = roofline_frame(frame)
    found["roofline"] = shown(
        folder,
        "gpu_roofline",
        roofline_figure(points, main["ceilings"]),
        points,
        results=behind,
        alt="Roofline: operations per second against operations per byte, under the measured ceilings. "
        + " ".join(
            f"{r.step} at {r.parameters / 1e6:.0f} million parameters: {r.teraflops:.0f} TFLOP/s."
            for r in each_row(points)
        ),
        caption="Operations that must be done over the time that was taken, against operations per byte "
        "that must be moved at the least; the roof is the measured copy bandwidth and bfloat16 product. "
        "n = 1 to 4 runs of each step, the fastest shown.",
    )
    return {f"gpu_{name}": text for name, text in found.items()}


def read_records(root: Path) -> dict[str, dict[str, Any]]:
    """Return the records of GPU runs by name, each checked against the manifest.

    Raises
    ------
    DataError
        For a record that is torn, changed or not listed, or lacks what the page reads.
    """
    folder = root / "records" / FOLDER
    found = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        check_record(root, path)
        record = json.loads(path.read_text(encoding="utf-8"))
        attribution = path.stem.startswith("attribution")
        lacking = (READ_OF_ATTRIBUTION if attribution else READ) - record.keys()
        for run in record.get("runs", []) if attribution else []:
            lacking |= READ_OF_RUNS - run.keys() if "error" not in run else set()
        if lacking:
            again = f"python -m benchmarks.{path.stem} --device cuda"
            command = again if path.stem in ("scaling", "compiled") else "make gpu"
            lacks = ", ".join(sorted(lacking))
            raise DataError(path, f"was made by other code: it lacks {lacks}; `{command}` makes it again")
        found[path.stem] = record
    return found


def runs_frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the fastest repetition of every step, with the lowest peak and how often it ran.

    Columns: size, tokens, library, dtype, step, parameters, seconds, peak_bytes, operations, intensity,
    agreement, n.
    """
    runs = pd.DataFrame([run for record in records for run in record["runs"] if "error" not in run])
    for name in ("operations", "intensity", "agreement"):
        runs[name] = runs.get(name)
    by = ["size", "tokens", "library", "dtype", "step"]
    return (
        runs.groupby(by, sort=False)
        .agg(
            parameters=("parameters", "first"),
            seconds=("seconds", "min"),
            peak_bytes=("peak_bytes", "min"),
            operations=("operations", "first"),
            intensity=("intensity", "first"),
            agreement=("agreement", "first"),
            n=("seconds", "size"),
        )
        .reset_index()
    )


def _row(frame: pd.DataFrame, size: str, library: str, dtype: str, step: str) -> Any:
    found = frame[
        (frame["size"] == size)
        & (frame["tokens"] == frame.loc[frame["size"] == size, "tokens"].min())
        & (frame["library"] == library)
        & (frame["dtype"] == dtype)
        & (frame["step"] == step)
    ]
    return found.iloc[0] if len(found) else None


def total(frame: pd.DataFrame, size: str, library: str, dtype: str) -> tuple[float, int, int] | None:
    """Return seconds and peak bytes from model to token scores, and repetitions; None if not measured."""
    steps = [_row(frame, size, library, dtype, step) for step in STEPS[library]]
    if any(step is None for step in steps):
        return None
    return (
        float(sum(step["seconds"] for step in steps)),
        int(max(step["peak_bytes"] for step in steps)),
        int(min(step["n"] for step in steps)),
    )


def origin(record: dict[str, Any], others: Sequence[dict[str, Any]] = ()) -> str:
    """Return the badge of the recorded runs, what they ran on, and the commits of others beside them."""
    environment = record["environment"]
    title = f"commit {environment['commit'][:12]}, {record['started'][:10]}"
    versions = {name: environment["versions"][name] for name in ("torch", "transformers")} | record["peers"]
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    rates = record["ceilings"]["operations_per_second"]
    commits = {other["environment"]["commit"][:12] for other in others} - {environment["commit"][:12]}
    beside = f" Some of the runs are of commit {', '.join(sorted(commits))}." if commits else ""
    return (
        f"{badge('recorded', title)} {escape(title)}; {escape(environment['device'])}, driver "
        f"{escape(record['driver'])}; {escape(libraries)}. Measured ceilings: "
        f"{rates['bfloat16'] / 1e12:.0f} TFLOP/s in bfloat16, {rates['tf32'] / 1e12:.0f} in TF32, "
        f"{rates['float32'] / 1e12:.0f} in float32 products of 8,192 × 8,192 random numbers; "
        f"{record['ceilings']['copy_bytes_per_second'] / 1e12:.1f} TB/s read and written by a copy.{beside}"
    )


def targets_table(frame: pd.DataFrame, record: dict[str, Any]) -> str:
    """Return what was asked of one GPU at a billion parameters, and what was measured."""
    own = total(frame, "1b", "infra", "bfloat16")
    scoring = _row(frame, "1b", "infra", "bfloat16", "tokens")
    same = _row(frame, "1b", "infra", "bfloat16", "same_factors")
    if own is None or scoring is None:
        return ""
    rows = []
    for says, dtype in (
        ("its defaults (float32)", "float32"),
        ("its low-precision settings", "low precision"),
    ):
        if theirs := total(frame, "1b", "kronfluence", dtype):
            speed, memory = theirs[0] / own[0], own[1] / theirs[1]
            rows.append(target_row(f"times as fast as kronfluence in {says}", speed, at_least=3))
            rows.append(target_row(f"of its peak memory, {says}", memory, at_most=0.5))
    share = (
        scoring["operations"] / scoring["seconds"] / record["ceilings"]["operations_per_second"]["bfloat16"]
    )
    rows.append(target_row("of the measured bfloat16 peak, forward-mode scoring", share, at_least=0.4))
    if same is not None:
        what = "rank correlation of position scores, same factors, float32"
        rows.append(target_row(what, min(same["agreement"].values()), at_least=0.99, digits=4))
    headers = ["at 1.03 billion parameters", "asked", "measured", ""]
    return html_table(headers, rows, left=1, label="Targets on one GPU", stacked=True)


def ratio_table(frame: pd.DataFrame) -> str:
    """Return the whole way from model to token scores: ours step by step, and kronfluence's beside it."""
    own_rows, peer_rows = [], []
    for size in _sizes(frame):
        own = total(frame, size, "infra", "bfloat16")
        if own is None:
            continue
        parts = [_row(frame, size, "infra", "bfloat16", step)["seconds"] for step in STEPS["infra"]]
        cells = [NAMES.get(size, size), *(f"{part:.2f}" for part in parts), f"<strong>{own[0]:.1f}</strong>"]
        own_rows.append([*cells, f"{own[1] / _GIB:.1f}", str(own[2])])
        for says, dtype in (("defaults, float32", "float32"), ("low precision", "low precision")):
            cells = [NAMES.get(size, size), says]
            if theirs := total(frame, size, "kronfluence", dtype):
                cells += [f"{theirs[0]:.1f}", f"<strong>{theirs[0] / own[0]:.2f}</strong>"]
                cells += [
                    f"{theirs[1] / _GIB:.1f}",
                    f"<strong>{own[1] / theirs[1]:.2f}</strong>",
                    str(theirs[2]),
                ]
            else:
                cells += [NOT_AVAILABLE] * 5
            peer_rows.append(cells)
    headers = ["parameters", "factors, s", "directions, s", "token scores, s", "all, s", "peak GiB", "n"]
    ours = html_table(headers, own_rows, left=1, label="Cost on a GPU", stacked=True)
    headers = ["parameters", "kronfluence", "all, s", "speed ratio"]
    headers += ["peak GiB", "memory ratio", "n"]
    theirs_too = html_table(
        headers, peer_rows, left=2, label="Cost on a GPU beside kronfluence", stacked=True
    )
    return f"{ours}\n\n{theirs_too}"


def lengths_table(frame: pd.DataFrame, record: dict[str, Any]) -> str:
    """Return seconds for a million training tokens, and speed, by model and by length of the sequences."""
    peak = record["ceilings"]["operations_per_second"]["bfloat16"]
    rows = []
    own = frame[(frame["library"] == "infra") & (frame["step"] == "tokens")]
    for scoring in own.sort_values(["parameters", "tokens"]).itertuples():
        where = (
            (frame["size"] == scoring.size)
            & (frame["tokens"] == scoring.tokens)
            & (frame["library"] == "infra")
        )
        fit = frame[where & (frame["step"] == "fit")].iloc[0]
        forward = frame[where & (frame["step"] == "forward")].iloc[0]
        # Longer sequences were fewer, so that the tokens were as many at every length.
        millions = _million_tokens(record, str(scoring.size))
        rows.append(
            [
                NAMES.get(str(scoring.size), str(scoring.size)),
                f"{scoring.tokens:,}",
                f"{scoring.seconds / millions:.1f}",
                f"{scoring.seconds / forward['seconds']:.1f}",
                f"{scoring.operations / scoring.seconds / 1e12:.0f}",
                f"{scoring.operations / scoring.seconds / peak:.0%}",
                f"{fit['seconds'] / millions:.0f}",
                f"{fit['operations'] / fit['seconds'] / peak:.0%}",
                f"{scoring.peak_bytes / _GIB:.1f}",
            ]
        )
    headers = [
        "parameters",
        "tokens a sequence",
        "scoring, s per million tokens",
        "in forward passes",
        "TFLOP/s",
    ]
    headers += ["of the peak", "fitting, s per million tokens", "fitting, of the peak", "scoring, peak GiB"]
    return html_table(headers, rows, left=1, label="Cost by length on a GPU", stacked=True)


def _million_tokens(record: dict[str, Any], size: str) -> float:
    setting = record["settings"]["sizes"][size]
    return float(setting["train"] * setting["tokens"]) / 1e6


def agreement_table(frame: pd.DataFrame) -> str:
    """Return how far bfloat16 scores are from float32, and position scores from kronfluence's."""
    rows = []
    for size in _sizes(frame):
        cells = [NAMES.get(size, size)]
        for library, dtype, step in (
            ("infra", "bfloat16", "against_float32"),
            ("infra", "bfloat16", "same_factors"),
            ("kronfluence", "float32", "tokens"),
            ("kronfluence", "low precision", "tokens"),
        ):
            found = _row(frame, size, library, dtype, step)
            held = found is not None and isinstance(found["agreement"], dict)
            cells.append(f"{min(found['agreement'].values()):.4f}" if held else NOT_AVAILABLE)
        rows.append(cells)
    headers = ["parameters", "bfloat16 and float32, cosine", "same factors, rank correlation"]
    headers += ["each its own factors", "its low precision, own factors"]
    return html_table(headers, rows, left=1, label="Agreement on a GPU", stacked=True)


def partition_table(record: dict[str, Any]) -> str:
    """Return a partition's time and memory beside the plan's, and the whole fit that they add up to."""
    fit = next(run for run in record["runs"] if run["step"] == "fit one partition")
    plan, layers = record.get("plan"), record["settings"]["layers"]
    count = record["settings"]["train"] * record["settings"]["tokens"]
    rows = [
        [
            "peak memory, GiB",
            f"{fit['peak_bytes'] / _GIB:.1f}",
            f"{plan['peak_bytes'] / _GIB:.1f}" if plan else NOT_AVAILABLE,
        ],
        ["seconds", f"{fit['seconds']:.1f}", f"{plan['seconds']:.1f}" if plan else NOT_AVAILABLE],
        [
            "factors on disk, GiB",
            f"{fit['stored_bytes'] / _GIB:.2f}",
            f"{plan['stored_bytes'] / _GIB:.2f}" if plan else NOT_AVAILABLE,
        ],
    ]
    rows += [
        [f"one eigendecomposition of side {run['side']:,}, s", f"{run['seconds']:.2f}", NOT_AVAILABLE]
        for run in record["runs"]
        if run["step"] == "eigendecomposition"
    ]
    table = html_table(["", "measured", "planned"], rows, left=1, label="One partition", stacked=True)
    parts = f"One of {plan['partitions']} partitions" if plan else "One partition"
    return f"{parts}: {len(layers)} layers of one block, {count:,} tokens.\n\n{table}"


def _sizes(frame: pd.DataFrame) -> list[str]:
    order = frame.drop_duplicates("size").sort_values("parameters")
    return [str(size) for size in order["size"]]


def memory_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the peak from model to token scores. Columns: series, parameters, gib, n."""
    rows = []
    for size in _sizes(frame):
        parameters = int(frame.loc[frame["size"] == size, "parameters"].iloc[0])
        for series, (library, dtype, *_) in SERIES.items():
            if found := total(frame, size, library, dtype):
                rows.append(
                    {"series": series, "parameters": parameters, "gib": found[1] / _GIB, "n": found[2]}
                )
    return pd.DataFrame(rows)


def roofline_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return our steps' speed. Columns: step, parameters, tokens, intensity, teraflops, seconds, n."""
    names = {"tokens": "token scores", "fit": "fitting"}
    own = frame[(frame["library"] == "infra") & frame["step"].isin(list(names)) & frame["intensity"].notna()]
    return pd.DataFrame(
        {
            "step": own["step"].map(names).to_numpy(),
            "parameters": own["parameters"].to_numpy(),
            "tokens": own["tokens"].to_numpy(),
            "intensity": own["intensity"].to_numpy(float),
            "teraflops": (own["operations"] / own["seconds"]).to_numpy(float) / 1e12,
            "seconds": own["seconds"].to_numpy(),
            "n": own["n"].to_numpy(),
        }
    )


@style.drawn
def gpu_memory_figure(frame: pd.DataFrame) -> Figure:
    """Draw peak memory on the device against model size. Columns: series, parameters, gib."""
    figure, axes = plt.subplots(figsize=(6.8, 3.4))
    for series, (_, _, colour, marker, line) in SERIES.items():
        part = frame[frame["series"] == series].sort_values("parameters")
        axes.plot(part["parameters"] / 1e6, part["gib"], line, color=colour, marker=marker, label=series)
    axes.set(xscale="log", yscale="log", xlabel="million parameters", ylabel="peak memory (GiB)")
    sizes = sorted(frame["parameters"].unique() / 1e6)
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@style.drawn
def roofline_figure(frame: pd.DataFrame, ceilings: dict[str, Any]) -> Figure:
    """Draw speed against intensity. Columns: step, parameters, tokens, intensity, teraflops."""
    figure, axes = plt.subplots(figsize=(6.8, 3.8))
    peak = ceilings["operations_per_second"]["bfloat16"] / 1e12
    slope = ceilings["copy_bytes_per_second"] / 1e12
    low, high = 40.0, max(20000.0, frame["intensity"].max() * 1.5)
    along = np.geomspace(low, high, 100)
    axes.plot(
        along, np.minimum(peak, slope * along), color=style.INK, linewidth=1.4, label="measured ceilings"
    )
    axes.axhline(0.4 * peak, color=style.INK, linewidth=1.2, linestyle="--", label="two fifths of the peak")
    for step, colour, marker in (("token scores", "#0072b2", "o"), ("fitting", "#d55e00", "s")):
        part = frame[frame["step"] == step]
        axes.plot(part["intensity"], part["teraflops"], color=colour, marker=marker, ls="none", label=step)
        for row in each_row(part[part["tokens"] == part["tokens"].min()]):
            axes.annotate(
                f"{row.parameters / 1e6:,.0f} M",
                (row.intensity, row.teraflops),
                textcoords="offset points",
                xytext=(6, -9),
                fontsize="small",
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        xlabel="operations per byte moved at the least",
        ylabel="TFLOP/s",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_locator(NullLocator())
    figure.legend(loc="outside upper center", ncols=2)
    return figure
