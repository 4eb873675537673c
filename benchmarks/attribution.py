"""Speed and memory of attribution, side by side with kronfluence, bergson and TRAK (`make benchmark`).

Every measurement runs in a process of its own, on the same random model, sequences, precision,
batches and threads; the libraries take turns, so that a busy machine hits all of them, and the
fastest repetition counts. Seconds are those of the processor, which other programs disturb least.

======================  ==============================================================================
step                    what is timed
======================  ==============================================================================
``fit``                 EK-FAC factors from model to disk, true Fisher, MLP linears
``tokens``              ours: query gradients, preconditioning and one forward-mode pass, giving token,
                        sentence and example scores of two targets. kronfluence: two per-token runs,
                        one for each target, query gradients included; it has the position reading
                        alone. bergson: token influence by output of both targets, the reading of ours
``examples``            kronfluence's two runs and bergson's one for example scores (ours come with the
                        tokens'); TRAK's features and scores of both targets, through ``trak``
``positions``           ours: query gradients and the position reading of both targets; bergson's token
                        influence by gradient of both
======================  ==============================================================================

bergson works from files: each of its steps loads the model, which takes time and is left out of its memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from benchmarks.measure import MEMORY_BYTES
from benchmarks.records import keep
from benchmarks.setting import SIZES, TARGETS
from infra_lib.performance.cpu import whole_attribution
from infra_lib.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "records" / "benchmarks" / "attribution.json"
PEERS = ("kronfluence", "bergson", "traker")
PLAN = (
    ("infra", "fit"),
    ("kronfluence", "fit"),
    ("bergson", "fit"),
    ("infra", "tokens"),
    ("kronfluence", "tokens"),
    ("bergson", "tokens"),
    ("infra", "positions"),
    ("bergson", "positions"),
    ("kronfluence", "examples"),
    ("bergson", "examples"),
)
RATIOS = (
    ("fitting factors", "fit", {"kronfluence": "fit", "bergson": "fit"}),
    ("token, sentence and example scores", "tokens", {"kronfluence": "tokens", "bergson": "tokens"}),
    ("example scores", "tokens", {"kronfluence": "examples", "bergson": "examples"}),
    ("position scores", "positions", {"kronfluence": "tokens", "bergson": "positions"}),
)
"""What is compared: its name, our step, and the step of each peer."""


def measure(library: str, step: str, size: str, folder: Path, threads: int) -> dict[str, Any]:
    """Run one measurement in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure", library, step, size, str(folder), str(threads)],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},  # bergson would take a GPU where there is one
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{library} {step} at size {size} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run(
    sizes: Sequence[str], threads: int, *, repeats: int | None = None, progress: bool = True
) -> list[dict[str, Any]]:
    """Measure every step at every size and return one record for each measurement."""
    plan = [
        (size, repeat, library, step)
        for size in sizes
        for repeat in range(repeats or SIZES[size].repeats)
        for library, step in (
            *PLAN,
            *([("trak", "examples")] if repeat == 0 else []),
        )
        if importlib.util.find_spec(_module(library))
    ]
    found = []
    with tempfile.TemporaryDirectory(prefix="infra-benchmark-") as temporary:
        for size, repeat, library, step in tqdm(plan, unit="measurement", disable=not progress):
            # Factors of an earlier repetition would be resumed; each repetition has a folder of its own.
            folder = Path(temporary) / size / str(repeat)
            folder.mkdir(parents=True, exist_ok=True)
            values = measure(library, step, size, folder, threads)
            found.append({"size": size, "repeat": repeat, "library": library, "step": step, **values})
    return found


def earlier(path: Path, sizes: Sequence[str], threads: int) -> list[dict[str, Any]]:
    """Return a record's runs at other sizes, if it comes from this very setting."""
    if "tiny" in sizes or not path.is_file():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["environment"] != environment() or record["settings"]["threads"] != threads:
        return []
    return [found for found in record["runs"] if found["size"] not in sizes]


def summarise(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, per size and step, ours beside each peer's: the fastest repetition, the lowest peak."""
    rows = []
    for size in dict.fromkeys(run["size"] for run in runs):
        # One model, one plain forward pass: the middle of those that all runs of the size measured.
        forward = median(run["forward_seconds"] for run in runs if run["size"] == size)
        for label, own, others in RATIOS:
            found = {
                library: [r for r in runs if (r["size"], r["library"], r["step"]) == (size, library, step)]
                for library, step in {"infra": own, **others}.items()
            }
            mine = found.pop("infra")
            row: dict[str, Any] = {
                "size": size,
                "what": label,
                "parameters": mine[0]["parameters"],
                "repeats": len(mine),
                **_best(mine),
                "forward_seconds": forward,
                "peers": {library: _best(theirs) for library, theirs in found.items() if theirs},
            }
            rows.append(row)
    return rows


def _best(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: min(run[key] for run in runs) for key in ("seconds", "peak_bytes")}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the summary as text."""
    lines = [
        f"{'size':8}{'what':36}{'library':12}{'s':>9}{'ratio':>7}{'forwards':>10}{'MiB':>9}{'ratio':>7}",
        f"{'':56}{'':>9}{'ours/':>7}{'':>10}{'':>9}{'ours/':>7}",
    ]
    for row in rows:
        for library, one in {"ours": row, **row["peers"]}.items():
            lines.append(
                f"{row['size']:8}{row['what']:36}{library:12}{one['seconds']:9.2f}"
                f"{row['seconds'] / one['seconds']:7.2f}{one['seconds'] / row['forward_seconds']:10.1f}"
                f"{one['peak_bytes'] / 2**20:9.0f}{row['peak_bytes'] / one['peak_bytes']:7.2f}"
            )
    return "\n".join(lines)


def notes() -> list[str]:
    """Return what a reader of the numbers should know about the other libraries."""
    found = [
        f"{name} is not installed (`make peers`), so it does not stand beside ours"
        for name in ("kronfluence", "bergson")
        if importlib.util.find_spec(name) is None
    ]
    if importlib.util.find_spec("bergson"):
        found.append(
            "bergson's covariances take in the prompt's positions, ours and kronfluence's those with a loss "
            "term alone; its attention is transformers' default where the others' is eager"
        )
    found.append(
        "trak runs once at each size, with 64 projected dimensions: on the CPU its projector draws its whole "
        "matrix again for each batch"
    )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table with ratios, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one tiny model, to see that everything runs")
    parser.add_argument(
        "--sizes",
        nargs="+",
        choices=[name for name in SIZES if name != "tiny"],
        default=[name for name in SIZES if name != "tiny"],
        help="measure these again; a record of the same commit and machine keeps its others",
    )
    parser.add_argument("--repeats", type=int, help="of every size (default: two of the smallest, else one)")
    parser.add_argument("--threads", type=int, default=1, help="of every library (default 1)")
    parser.add_argument("--out", type=Path, default=RECORD, help="the record to write")
    options = parser.parse_args(arguments)
    sizes = ["tiny"] if options.quick else options.sizes
    started = time.perf_counter()
    runs = [
        *earlier(options.out, sizes, options.threads),
        *run(sizes, options.threads, repeats=options.repeats),
    ]
    runs.sort(key=lambda found: (list(SIZES).index(found["size"]), found["repeat"]))
    rows = summarise(runs)
    record = {
        "environment": environment(),
        "peers": {name: metadata.version(name) for name in PEERS if importlib.util.find_spec(_module(name))},
        "settings": {
            "threads": options.threads,
            "dtype": "float32",
            "targets": list(TARGETS),
            "memory_bytes": MEMORY_BYTES,
            "sizes": {name: asdict(SIZES[name]) for name in dict.fromkeys(r["size"] for r in runs)},
        },
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": time.perf_counter() - started,
        "runs": runs,
        "summary": rows,
        "notes": notes(),
    }
    keep(options.out, record)
    print(table(rows))
    for trak in (r for r in runs if r["library"] == "trak"):
        own, _ = whole_attribution(rows, trak["size"])
        text = f"{trak['seconds']:9.2f} s, {own / trak['seconds']:.2f} ours to trak, fitting included"
        print(f"{trak['size']:8}{'trak, example scores':36}{text}")
    print("\n".join(f"note: {note}" for note in record["notes"]))
    print(f"recorded in {options.out}")


def _module(package: str) -> str:
    return {"traker": "trak", "infra": "infra_lib"}.get(package, package)


if __name__ == "__main__":
    main()
