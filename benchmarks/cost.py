"""Cost against tokens and against targets: `python -m benchmarks.cost`.

The cost of our own engine in plain forward passes and seconds, at four amounts of tokens and
one to eight targets, on the small model of :mod:`benchmarks.setting`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.attribution import RECORD
from benchmarks.measure import forward_seconds
from benchmarks.records import keep
from benchmarks.setting import SIZES, make_model, make_rows
from infra_lib.curvature import fit_factors
from infra_lib.influence import position_scores, precondition, target_gradient, token_scores
from infra_lib.models import mlp_linears
from infra_lib.provenance import environment

EXAMPLES = (16, 32, 64, 128)
TARGET_COUNTS = (1, 2, 4, 8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one tiny model, to see that everything runs")
    parser.add_argument("--out", type=Path, default=RECORD.with_name("cost.json"))
    options = parser.parse_args(arguments)
    name = "tiny" if options.quick else "small"
    torch.set_num_threads(1)
    points = measure(name, EXAMPLES[:2] if options.quick else EXAMPLES, repeats=1 if options.quick else 3)
    record = {
        "environment": environment(),
        "settings": {"threads": 1, "dtype": "float32", "size": asdict(SIZES[name])},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "points": points,
    }
    keep(options.out, record)
    for point in points:
        print(
            f"{point['what']:18}{point['tokens']:8} tokens{point['targets']:3} targets"
            f"{point['seconds']:9.2f} s{point['seconds'] / point['forward_seconds']:7.1f} forwards"
        )
    print(f"recorded in {options.out}")


def measure(name: str, counts: Sequence[int], *, repeats: int) -> list[dict[str, Any]]:
    """Return one point per step, amount of tokens and number of targets: the fastest of the repeats."""
    size = SIZES[name]
    model = make_model(size)
    rows = make_rows(size, max(counts), "train", 1)
    size_options: dict[str, Any] = {"batch_tokens": size.batch * size.tokens}
    factors = fit_factors(model, rows[: 2 * size.batch], progress=False, **size_options)
    names = list(mlp_linears(model))
    gradients = [
        target_gradient(model, names, make_rows(size, 2, f"t{k}", 10 + k)) for k in range(max(TARGET_COUNTS))
    ]
    directions = {f"t{k}": precondition(factors, gradient) for k, gradient in enumerate(gradients)}

    def some(count: int) -> dict[str, Any]:
        return dict(list(directions.items())[:count])

    # Every step at every amount once, then again: a busy moment hits all points alike.
    plan: list[tuple[str, int, int, Callable[[], object]]] = []
    for count in counts:
        part = rows[:count]
        plan += [
            ("fitting", count, 0, lambda part=part: fit_factors(model, part, progress=False, **size_options)),
            ("token scores", count, 2, _scoring(token_scores, model, part, some(2), size_options)),
            ("position scores", count, 2, _scoring(position_scores, model, part, some(2), size_options)),
        ]
    for targets in TARGET_COUNTS:
        part = rows[: counts[1]]
        for what, score in (("token scores", token_scores), ("position scores", position_scores)):
            if targets != 2:
                plan.append(
                    (what, counts[1], targets, _scoring(score, model, part, some(targets), size_options))
                )
    for _, _, _, step in plan[:3]:  # what is loaded lazily is loaded now
        step()
    best = [float("inf")] * len(plan)
    for _ in range(repeats):
        for number, (_, _, _, step) in enumerate(plan):
            start = time.process_time()
            step()
            best[number] = min(best[number], time.process_time() - start)
    per_row = forward_seconds(model, rows, size) / len(rows)
    return [
        {
            "what": what,
            "tokens": count * size.tokens,
            "targets": targets,
            "seconds": seconds,
            "forward_seconds": per_row * count,
            "repeats": repeats,
        }
        for (what, count, targets, _), seconds in zip(plan, best, strict=True)
    ]


def _scoring(
    score: Callable[..., object], model: Any, rows: Sequence[Any], directions: Any, options: Any
) -> Callable[[], object]:
    return lambda: score(model, rows, directions, progress=False, **options)


if __name__ == "__main__":
    main()
