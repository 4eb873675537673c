"""One measurement in a process of its own: `python -m benchmarks.measure LIBRARY STEP SIZE FOLDER THREADS`.

It prints one line of JSON: processor and wall-clock seconds of the step, processor seconds of a plain
forward pass over the same training sequences, and the peak of resident memory above that of the
loaded model. What is timed starts with the model in memory (on disk for bergson, which loads it itself)
and ends with results in memory or, for factors, on disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

warnings.filterwarnings("ignore")
MEMORY_BYTES = 256 * 2**20
"""Our budget for factors under construction and kept rows."""


def steps(
    library: str, step: str, size: Any, folder: Path, model: Any, train: Any, targets: Any
) -> Callable[[], object]:
    """Return the step as a function to be timed; what it needs from before is set up here."""
    if library == "kronfluence":
        from benchmarks.kronfluence_peer import Kronfluence

        peer = Kronfluence(model, folder / "kronfluence", batch=size.batch)
        if step == "fit":
            return lambda: peer.fit(train)
        return lambda: {
            name: peer.scores(train, rows, per_token=step == "tokens", name=f"{name}-{step}")
            for name, rows in targets.items()
        }
    if library == "bergson":
        from benchmarks.bergson_peer import READINGS, Bergson

        other = Bergson(model, folder / "bergson", batch_tokens=size.batch * size.tokens)
        for name, rows in {"train": train, **targets}.items():
            other.save(name, rows)
        if step == "fit":
            return lambda: other.fit("train")
        return lambda: other.scores("train", list(targets), reading=READINGS[step])
    if library == "trak":
        from infra_lib.trak_scores import trak_scores

        return lambda: trak_scores(
            model, train, targets, proj_dim=64, batch_tokens=size.batch * size.tokens, folder=folder / "trak"
        )
    return _ours(step, size, folder, model, train, targets)


def _ours(step: str, size: Any, folder: Path, model: Any, train: Any, targets: Any) -> Callable[[], object]:
    from infra_lib.curvature import fit_factors
    from infra_lib.influence import (
        example_scores,
        position_scores,
        precondition,
        sum_over_spans,
        target_gradient,
        token_scores,
    )
    from infra_lib.models import mlp_linears

    options: dict[str, Any] = {"batch_tokens": size.batch * size.tokens}

    def fit() -> Any:
        where = folder / "infra"
        return fit_factors(model, train, folder=where, memory_bytes=MEMORY_BYTES, progress=False, **options)

    if step == "fit":
        return fit
    factors = fit()  # stored by an earlier process: mapped, not fitted again
    names = list(mlp_linears(model))
    score = position_scores if step == "positions" else token_scores

    def run() -> object:
        directions = {
            name: precondition(factors, target_gradient(model, names, rows, **options))
            for name, rows in targets.items()
        }
        tokens = score(model, train, directions, progress=False, **options)
        if step == "positions":
            return tokens
        spans = [(i, i + 16) for i in range(0, size.tokens - size.prompt, 16)]
        sentences = {
            name: [
                sum_over_spans(values, row.offsets, spans) for row, values in zip(train, rows, strict=True)
            ]
            for name, rows in tokens.items()
        }
        return example_scores(tokens), sentences, tokens

    return run


def reset_peak() -> int:
    """Let the peak of resident memory start again from now, where Linux can; return the memory now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def peak() -> int:
    """Return the peak of resident memory in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forward_seconds(model: Any, train: Any, size: Any) -> float:
    """Return the seconds of a plain forward pass over the training sequences, the faster of two."""
    import torch

    from infra_lib.models import batches

    groups = batches(train, batch_tokens=size.batch * size.tokens, pad_id=0)
    found = []
    with torch.no_grad():
        for _ in range(2):
            start = time.process_time()
            for batch in groups:
                model(**batch.inputs, use_cache=False)
            found.append(time.process_time() - start)
    return min(found)


def main(library: str, step: str, size_name: str, folder: str, threads: str) -> None:
    """Measure one step and print it."""
    os.environ["OMP_NUM_THREADS"] = threads
    import torch

    from benchmarks.setting import SIZES, make_data, make_model

    torch.set_num_threads(int(threads))
    size = SIZES[size_name]
    model, (train, targets) = make_model(size), make_data(size)
    plain = forward_seconds(model, train[: 2 * size.batch], size)  # warms up what is loaded lazily
    run = steps(library, step, size, Path(folder), model, train, targets)
    parameters = sum(p.numel() for p in model.parameters())
    # bergson loads the model once more, and only what comes on top of a model counts.
    before = reset_peak() + (4 * parameters if library == "bergson" else 0)
    wall, start = time.perf_counter(), time.process_time()
    run()
    found = {
        "seconds": time.process_time() - start,
        "wall_seconds": time.perf_counter() - wall,
        "forward_seconds": plain * size.train / min(size.train, 2 * size.batch),
        "peak_bytes": max(1, peak() - before),
        "parameters": parameters,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
