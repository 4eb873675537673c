"""Sentences of the page on GPUs that hold a number: each number is read from the record that it speaks of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from infra_lib.plan.estimate import ALLOCATOR

_GIB = 2**30
NAMES = {"10m": "10 M", "135m": "135 M", "494m": "494 M", "1b": "1.03 B"}
COMPARED = ("against_float32", "same_factors")
LARGEST = "1b"
"""The size that the sentences speak of."""


def eigendecompositions(record: Mapping[str, Any]) -> str:
    """Return what bounds fitting, with how long an eigendecomposition was measured to take."""
    setting = record["settings"]["sizes"].get(LARGEST)
    if setting is None:
        return ""
    times = {
        run["threads"]: run["seconds"]
        for run in record["ceilings"]["eigendecompositions"]
        if run["side"] == setting["inner"] and run["dtype"] == "float32"
    }
    if not times:
        return ""
    each = f"{times[1]:.2f} s each"
    if together := {threads: seconds for threads, seconds in times.items() if threads > 1}:
        threads, seconds = max(together.items())
        each += f", {seconds:.2f} s with {threads} at once"
    return (
        "Fitting is bound by what is not a product: eigendecompositions (three of side "
        f"{setting['inner']:,} a layer at a billion parameters, {each}), and the factors' way to their file, "
        "which is written and hashed while the next partition is fitted."
    )


def by_length(frame: pd.DataFrame) -> str:
    """Return how the cost of a token grows with the length of its sequence.

    Columns: size, tokens, library, step, seconds; sequences are the fewer the longer they are, so that the
    tokens are as many at every length.
    """
    own = frame[(frame["library"] == "infra") & (frame["step"] == "tokens")]
    several = [part.sort_values("tokens") for _, part in own.groupby("size") if len(part) > 1]
    if not several:
        return ""
    first, last = several[0].iloc[0], several[0].iloc[-1]
    return (
        "Attention is one kernel of our own for the derivative, which holds nothing of the size tokens × "
        f"tokens: from {first['tokens']:,} to {last['tokens']:,} tokens a sequence the cost of scoring a "
        f"token grows by a factor of {last['seconds'] / first['seconds']:.1f}."
    )


def held_before(records: Iterable[Mapping[str, Any]]) -> str:
    """Return how much of kronfluence's peaks was held by what ran before it in the same process."""
    held: dict[str, float] = {}
    unknown = set()
    for record in records:
        for run in record["runs"]:
            if run.get("library") != "kronfluence" or run.get("step") != "fit" or "error" in run:
                continue
            if "held_bytes" not in run:
                unknown.add(run["size"])
                continue
            rest = (run["held_bytes"] - 4 * run["parameters"]) / _GIB  # its model is in float32
            held[run["size"]] = max(held.get(run["size"], 0.0), rest)
    found = {size: rest for size, rest in held.items() if rest >= 0.05}
    if not found:
        return ""
    each = " and ".join(f"{rest:.1f} GiB at {NAMES.get(size, size)}" for size, rest in found.items())
    missing = ", ".join(NAMES.get(size, size) for size in NAMES if size in unknown - held.keys())
    rest = f" At {missing} parameters it was not recorded and may be as much." if missing else ""
    return (
        "One process ran one library after the other. When kronfluence's fit began, it still held what was "
        f"not its own model: {each} parameters. That is in its peaks, and flatters ours.{rest} The benchmark "
        "gives each library a process of its own now."
    )


def chance(record: Mapping[str, Any], others: Iterable[Mapping[str, Any]] = ()) -> str:
    """Return how to read the table of agreement, which is of this record and of others beside it."""
    setting = record["settings"]["sizes"].get(LARGEST)
    count = f" ({setting['train']} at a billion parameters)" if setting else ""
    compared = sorted(
        compared_sequences(one, run)
        for one in (record, *others)
        for run in one["runs"]
        if run["step"] in COMPARED and "error" not in run
    )
    if not compared:
        return ""
    few = f"{compared[0]} to {compared[-1]}" if compared[0] < compared[-1] else f"{compared[0]}"
    return (
        "The lowest of the targets is shown. The first two columns compare "
        f"{few} sequences, each token's score with its own. With the same factors, both libraries give the "
        "same position scores. With each its own, labels are sampled by each library, and few sequences"
        f"{count} leave room for chance, the more the larger the model."
    )


def compared_sequences(record: Mapping[str, Any], run: Mapping[str, Any]) -> int:
    """Return the sequences on which a run compared scores; older records go by the rule of their time."""
    batch = int(record["settings"]["sizes"].get(run["size"], {}).get("batch", 8))
    return int(run.get("sequences", max(2, batch // 4)))


def partition_words(record: Mapping[str, Any]) -> str:
    """Return how the plan compares with the partition that was run."""
    fit = next(run for run in record["runs"] if run["step"] == "fit one partition")
    plan = record.get("plan")
    if not plan:
        return ""
    memory, time = plan["peak_bytes"] / fit["peak_bytes"], plan["seconds"] / fit["seconds"]
    return (
        f"Qwen2.5-7B's shape with random weights, first block, its head tied to the embeddings "
        f"({record['parameters'] / 1e9:.2f} billion parameters). The plan's memory is "
        f"{memory:.2f} times what tensors were measured to take; it "
        f"counts what the allocator keeps beside them, {ALLOCATOR - 1:.0%}. Its time is {time:.2f} times "
        "what was measured; it counts products and decompositions, not the copying, hashing and writing of "
        f"the {fit['stored_bytes'] / _GIB:.1f} GiB that were stored."
    )


def first_attempt(record: Mapping[str, Any], later: Mapping[str, Any]) -> str:
    """Return what the first run at a billion parameters found, and why it is not shown with the others."""
    runs = [run for run in record["runs"] if run.get("size") == LARGEST and run.get("agreement")]
    cosines = _values(runs, "infra", "against_float32")
    ranks = _values(runs, "kronfluence", "tokens") + _values(runs, "kronfluence", "examples")
    setting = later["settings"]["sizes"].get(LARGEST)
    if setting is None or not cosines or not ranks:
        return ""
    return (
        "A first run drew weights with a standard deviation of 0.05. A billion parameters of that are "
        f"chaotic: bfloat16 and float32 scores had a cosine of {min(cosines):.2f} and rank correlations with "
        f"kronfluence were {min(ranks):.2f} to {max(ranks):.2f}, which says nothing about either library. "
        f"Weights are drawn with {setting['initializer']} since, as such models are "
        "initialised (`records/gpu/first-attempt.json`)."
    )


def _values(runs: list[Mapping[str, Any]], library: str, step: str) -> list[float]:
    found = [run for run in runs if run["library"] == library and run["step"] == step]
    return [value for run in found for value in run["agreement"].values()]
