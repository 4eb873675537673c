"""Score a training set under one model: factors, directions, token scores, in one call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from infra_lib.attribute.checks import SAMPLE, against_float32, judge
from infra_lib.attribute.scorer import Scorer
from infra_lib.attributes import score_table
from infra_lib.curvature import fit_factors
from infra_lib.device import held_free
from infra_lib.distributed import add_up_number, is_main, size
from infra_lib.examples import Example
from infra_lib.influence import (
    Direction,
    example_scores,
    moved,
    position_scores,
    precondition,
    response_positions,
    target_gradient,
    token_scores,
)
from infra_lib.jobs import run_jobs
from infra_lib.launched import TRAINING_SET, scores_on
from infra_lib.models import Encoded, encode, load_model, load_tokenizer

NO_ROOM = "no room for the model in float32, with which its scores would be compared"
COSINES = ("cosine", "token_cosine", "gradient_cosine")
"""What is kept of the comparison with float32."""


@dataclass(frozen=True)
class Scored:
    """Scores of a training set on several targets.

    Attributes
    ----------
    scores
        Columns id, target, score, rank, n_tokens.
    tokens
        Target name to one array of token scores per example (loss-term reading).
    positions
        The same in the position reading, the prompt's share left out.
    encoded
        The training examples in tokens, in the order of ``tokens``.
    checks
        Layers, positions, worst orthogonality and residual of the factors; below float32, the lowest cosine
        of any target with float32 on a sample: of example scores, token scores and the target's gradient.
    seconds
        Time of each step, in words.
    """

    scores: pd.DataFrame
    tokens: Mapping[str, list[np.ndarray]]
    positions: Mapping[str, list[np.ndarray]]
    encoded: list[Encoded]
    checks: dict[str, float]
    seconds: str


def score_training_set(
    model_folder: str | Path,
    train: Sequence[Example],
    targets: Mapping[str, Sequence[Example]],
    *,
    damping: float = 0.1,
    labels: str = "sampled",
    seed: int = 0,
    device: str = "cpu",
    folder: Path | None = None,
    end_token: bool = True,
    max_tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
    batch_tokens: int = 4096,
    memory_bytes: int = 2 * 2**30,
    targets_at_once: int = 2,
    devices: int = 1,
    progress: bool = True,
) -> Scored:
    """Attribute each target to the training examples of a model (EK-FAC, both readings of a token).

    Parameters
    ----------
    model_folder
        The fine-tuned model.
    train
        The examples that it was trained on.
    targets
        Target name to its correct responses.
    damping, labels, seed
        See :func:`infra_lib.influence.precondition` and :func:`infra_lib.curvature.fit_factors`.
    folder
        Where factors are kept, so that an interrupted run goes on.
    end_token
        Whether responses end with the end token, as in fine-tuning.
    max_tokens
        Longest sequence; longer responses are cut, as in fine-tuning.
    dtype
        Of the weights and passes.
    batch_tokens, memory_bytes
        Padded tokens per batch, and room for factors under construction.
    targets_at_once
        Targets that share a scoring pass; fewer take less memory and more time.
    devices
        Processes that share the work, a device each (:mod:`infra_lib.launched`).

    Raises
    ------
    ParameterError
        For more processes than devices or examples.
    NumericalError
        Below float32, where scores have little to do with those in float32
        (:func:`infra_lib.attribute.checks.judge`).
    """
    tokenizer = load_tokenizer(model_folder)
    pad = tokenizer.pad_token_id or 0
    settings: dict[str, Any] = {"end_token": end_token, "max_tokens": max_tokens}
    encoded = [encode(tokenizer, example, **settings) for example in train]
    if devices > 1:
        options: dict[str, Any] = {
            "damping": damping,
            "labels": labels,
            "seed": seed,
            "folder": folder,
            **settings,
            "dtype": dtype,
            "batch_tokens": batch_tokens,
            "memory_bytes": memory_bytes,
            "targets_at_once": targets_at_once,
            "progress": progress,
        }
        given = (devices, TRAINING_SET, model_folder, train, targets)
        arrays, facts = scores_on(*given, device=device, options=options)
        loss, position = (
            {name: arrays[reading, name] for name in targets} for reading in ("loss", "position")
        )
        return _scored(train, encoded, loss, position, facts["checks"], facts["seconds"])
    model = load_model(model_folder, dtype=dtype, device=device)
    clock = {"start": time.perf_counter()}
    factors = fit_factors(
        model,
        encoded,
        pad_id=pad,
        labels=labels,
        seed=seed,
        batch_tokens=batch_tokens,
        memory_bytes=memory_bytes,
        folder=folder,
        replace_torn=True,
        progress=progress,
    )
    clock["fit"] = time.perf_counter()
    correct = {
        name: [encode(tokenizer, example, **settings) for example in examples]
        for name, examples in targets.items()
    }

    def gradient(own: Sequence[Encoded]) -> Direction:
        options: dict[str, Any] = {"pad_id": pad, "batch_tokens": batch_tokens, "offload": True}
        return target_gradient(model, list(factors.layers), own, **options)

    def direction(own: list[Encoded]) -> Direction:
        # A gradient has four bytes a weight, whatever the model has: one at a time, and none is kept.
        return moved(precondition(factors, gradient(own), damping=damping, dtype=dtype, device=device), home)

    # Those that wait for their pass do not wait on the device.
    home = "cpu" if targets_at_once < len(correct) else device
    directions = {name: direction(own) for name, own in correct.items()}
    clock["directions"] = time.perf_counter()
    tokens: dict[str, list[np.ndarray]] = {}
    positions: dict[str, list[np.ndarray]] = {}
    names = list(directions)
    for start in range(0, len(names), targets_at_once):
        some = {name: moved(directions[name], device) for name in names[start : start + targets_at_once]}
        passes: dict[str, Any] = {"pad_id": pad, "batch_tokens": batch_tokens, "progress": progress}
        tokens |= token_scores(model, encoded, some, **passes)
        for name, rows in position_scores(model, encoded, some, **passes).items():
            positions[name] = [
                response_positions(row, values)[1] for row, values in zip(encoded, rows, strict=True)
            ]
    clock["scores"] = time.perf_counter()
    times = list(clock.values())
    checks: dict[str, float] = {
        "layers": len(factors.layers),
        "positions": factors.positions,
        "orthogonality": max(check["orthogonality"] for check in factors.checks.values()),
        "residual": max(check["residual"] for check in factors.checks.values()),
    }
    if dtype != torch.float32 and float32_fits(model, directions):
        all_there = {name: moved(own, device) for name, own in directions.items()}
        scorer = Scorer(model, all_there, "loss", pad_id=pad, batch_tokens=batch_tokens)
        try:
            found = against_float32(scorer, encoded, tokens, correct, gradient)
        except torch.cuda.OutOfMemoryError:  # what was scored stays; alone, nobody waits for this process
            if size() > 1:
                raise
            found = {}
            tqdm.write(NO_ROOM)
        judge(found, str(dtype).removeprefix("torch."), with_tokens=True, instead="precision: float32")
        if found:
            checks["float32_sample"] = SAMPLE
            lowest = {name: min(cast("float", own[name]) for own in found.values()) for name in COSINES}
            checks |= {f"float32_{name}": value for name, value in lowest.items()}
    seconds = ", ".join(
        f"{name} {after - before:.1f} s"
        for name, before, after in zip(("factors", "directions", "scores"), times, times[1:], strict=False)
    )
    return _scored(train, encoded, tokens, positions, checks, seconds)


def float32_fits(model: Any, directions: Mapping[str, Direction]) -> bool:
    """Return whether there is room for a comparison in float32: always on a CPU, on all devices or on none.

    The model grows by two bytes a weight; each target's direction takes four, and so do two gradients; and
    passes hold twice what they held so far.
    """
    if model.device.type != "cuda":
        return True
    weights = sum(parameter.numel() for parameter in model.parameters())
    attributed = sum(part.numel() for own in directions.values() for part in own.values())
    free = torch.cuda.mem_get_info(model.device)[0] + held_free(model.device)
    passes = torch.cuda.max_memory_allocated(model.device) - torch.cuda.memory_allocated(model.device)
    fits = free > 1.2 * (2 * weights + 12 * attributed) + 2 * passes
    if not fits and is_main():
        tqdm.write(NO_ROOM)
    return add_up_number(int(fits)) == size()


def score_models(
    model_folders: Sequence[Path],
    train: Sequence[Example],
    targets: Sequence[Mapping[str, Sequence[Example]]],
    *,
    processes: int = 1,
    progress: bool = True,
    **options: Any,
) -> list[Scored]:
    """Return :func:`score_training_set` of several models, each with targets of its own.

    Parameters
    ----------
    processes
        Models scored side by side, on a CPU. A device of another kind, and devices that share the work of
        one model, take the models one after the other: a plan gives each of them the whole memory.
    options
        Further arguments of :func:`score_training_set`.

    Raises
    ------
    InfraError
        As :func:`infra_lib.jobs.run_jobs` does for workers.
    """
    jobs = [(folder, train, own, options) for folder, own in zip(model_folders, targets, strict=True)]
    shared = options.get("device", "cpu") != "cpu" or options.get("devices", 1) > 1
    if shared or min(processes, len(jobs)) < 2:
        return [score_training_set(*job[:3], **options, progress=progress) for job in jobs]
    # With the threads that a model scored here would have: its numbers are the same to the last bit.
    threads = torch.get_num_threads()
    named: dict[str, Any] = {"label": "scoring models", "progress": progress}
    return run_jobs(_score_job, jobs, processes=processes, threads=threads, **named)


def _score_job(
    job: tuple[Path, Sequence[Example], Mapping[str, Sequence[Example]], dict[str, Any]],
) -> Scored:
    return score_training_set(*job[:3], **job[3], progress=False)


def _scored(
    train: Sequence[Example],
    encoded: list[Encoded],
    tokens: Mapping[str, list[np.ndarray]],
    positions: Mapping[str, list[np.ndarray]],
    checks: dict[str, float],
    seconds: str,
) -> Scored:
    scores = score_table(example_scores(tokens), train, [row.n_tokens for row in encoded])
    return Scored(scores, tokens, positions, encoded, checks, seconds)
