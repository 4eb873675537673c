"""Run one attribution: load, check, fit, score, write.

Scores are written at up to three levels:

``examples.parquet``
    id, target, score, rank (1 = most helpful), n_tokens.
``sentences.parquet``
    id, index, start, end (characters of the response), target, score.
``tokens.parquet``
    id, position, token (its text), start, end, target, score.

An example's score is the sum of its sentences' and of its tokens'. In the position
reading the prompt's positions carry gradient too; their share has ``index`` and
``position`` −1 and an empty span, so that the sums still hold.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from infra_lib import baselines
from infra_lib.attribute.inputs import Inputs, read_inputs
from infra_lib.attribute.options import CURVATURE, Options
from infra_lib.attribute.refinement import refine_directions, refinement_record
from infra_lib.attributes import score_table
from infra_lib.curvature import Factors, fit_factors
from infra_lib.errors import NumericalError
from infra_lib.examples import Example, Sentence
from infra_lib.files import file_digest, replacing, write_json, write_text
from infra_lib.influence import example_scores, position_scores, precondition, sum_over_spans, target_gradient
from infra_lib.influence import token_scores as loss_scores
from infra_lib.models import Encoded, linears, load_model, load_tokenizer
from infra_lib.provenance import environment
from infra_lib.sentences import split_sentences

TokenScores = dict[str, list[np.ndarray]]


def attribute(options: Options, *, progress: bool = True) -> Path:
    """Score every training example on every target and write the results to ``options.out``.

    Factors are kept in ``out/factors``, so a run that was interrupted, or that asks for another damping
    or level, does not fit them again.

    Raises
    ------
    ParameterError, DataError, ModelError
        Before anything heavy runs, naming the option, the file and line, or the tensor.
    NumericalError
        For scores that are not finite, all zero or all equal.
    """
    options.check()
    started = time.perf_counter()
    model = load_model(options.model, dtype=getattr(torch, options.dtype), device=options.device)
    tokenizer = load_tokenizer(options.model)
    names = list(linears(model, None))
    inputs = read_inputs(
        options.train,
        options.target,
        tokenizer,
        context=getattr(model.config, "max_position_embeddings", None),
        skip_bad=options.skip_bad,
    )
    scores, tokens, checks = _score(options, model, names, inputs, tokenizer.pad_token_id or 0, progress)
    _write(options, tokenizer, inputs, scores, tokens)
    _write_provenance(options, model, inputs, names, checks, time.perf_counter() - started)
    return options.out


def _score(
    options: Options, model: Any, names: Sequence[str], inputs: Inputs, pad: int, progress: bool
) -> tuple[dict[str, np.ndarray], TokenScores | None, dict[str, Any]]:
    """Return example scores, token scores (None where the method has none), and what was checked."""
    if options.method == "random":
        return baselines.chance(inputs.train, list(inputs.targets), seed=options.seed), None, {}
    size: dict[str, Any] = {"pad_id": pad, "batch_tokens": options.batch_tokens}
    if options.method == "trak":
        from infra_lib.trak_scores import trak_scores  # here, since trak configures logging when imported

        found = trak_scores(model, inputs.encoded, inputs.targets, seed=options.seed, **size)
        _refuse_constant(found.scores)
        return found.scores, None, {"self_rank": found.self_rank}
    gradients = {
        target: target_gradient(model, names, rows, per_token=options.target_mean == "token", **size)
        for target, rows in inputs.targets.items()
    }
    checks: dict[str, Any] = {}
    directions: Mapping[str, Mapping[str, torch.Tensor]] = gradients
    if options.method in CURVATURE:
        factors = fit_factors(
            model,
            inputs.encoded,
            seed=options.seed,
            folder=_factor_folder(options),
            progress=progress,
            **size,
        )
        checks["factors"] = _worst(factors)
        directions = {
            target: precondition(factors, gradient, damping=options.damping, method=options.method)
            for target, gradient in gradients.items()
        }
    score = loss_scores if options.reading == "loss" else position_scores
    refined = None
    if options.refine:
        refined = refine_directions(options, model, inputs, factors, gradients, pad_id=pad, progress=progress)
        plain, directions = directions, refined.directions
    tokens = score(model, inputs.encoded, directions, progress=progress, **size)
    if options.method == "gradcos":
        tokens = _cosines(tokens, gradients, baselines.gradient_norms(model, inputs.encoded, names, **size))
    totals = example_scores(tokens)
    _refuse_constant(totals)
    if refined:
        unrefined = example_scores(score(model, inputs.encoded, plain, progress=progress, **size))
        checks["refinement"] = refinement_record(refined, unrefined, totals)
    checks["single_against_batch"] = _check_single(score, model, inputs, directions, totals, options)
    return totals, tokens, checks


def _factor_folder(options: Options) -> Path:
    folder = options.out / "factors"
    folder.mkdir(exist_ok=True)
    return folder


def _worst(factors: Factors) -> dict[str, float]:
    names = next(iter(factors.checks.values()), {})
    return {name: max(check[name] for check in factors.checks.values()) for name in names}


def _cosines(
    tokens: TokenScores, gradients: Mapping[str, Mapping[str, torch.Tensor]], squared: np.ndarray
) -> TokenScores:
    """Divide gradient dot products by the norms of both gradients."""
    found = {}
    for target, rows in tokens.items():
        norm = np.sqrt(sum(float(part.double().square().sum()) for part in gradients[target].values()))
        found[target] = [
            row / (norm * np.sqrt(own)) if own > 0 else row * 0
            for row, own in zip(rows, squared, strict=True)
        ]
    return found


def _refuse_constant(totals: Mapping[str, np.ndarray]) -> None:
    for target, values in totals.items():
        if len(values) > 1 and np.ptp(values) == 0:
            raise NumericalError(f"all examples have the same score on {target}; nothing can be ranked")


def _check_single(
    score: Any,
    model: Any,
    inputs: Inputs,
    directions: Mapping[str, Mapping[str, torch.Tensor]],
    totals: Mapping[str, np.ndarray],
    options: Options,
) -> dict[str, float] | None:
    """Score a few examples one by one and return how far they lie from their scores in batches."""
    if options.method == "gradcos":
        return None
    sample = list(range(0, len(inputs.encoded), max(1, len(inputs.encoded) // 4)))[:4]
    rows = [inputs.encoded[i] for i in sample]
    alone = {
        target: np.concatenate(
            [
                example_scores(score(model, [row], {target: direction}, batch_tokens=1, progress=False))[
                    target
                ]
                for row in rows
            ]
        )
        for target, direction in directions.items()
    }
    return {
        target: float(np.abs(alone[target] - values[sample]).max() / max(np.abs(values).max(), 1e-300))
        for target, values in totals.items()
    }


# --- Writing -----------------------------------------------------------------------------


def _write(
    options: Options,
    tokenizer: Any,
    inputs: Inputs,
    scores: Mapping[str, np.ndarray],
    tokens: TokenScores | None,
) -> None:
    counts = [row.n_tokens for row in inputs.encoded]
    if "example" in options.levels:
        _to_parquet(options.out / "examples.parquet", score_table(scores, inputs.train, counts))
    if tokens is not None and "sentence" in options.levels:
        _to_parquet(options.out / "sentences.parquet", _sentence_table(inputs, tokens))
    if tokens is not None and "token" in options.levels:
        _to_parquet(options.out / "tokens.parquet", _token_table(tokenizer, inputs, tokens))
    lines = [json.dumps({"file": str(p.path), "line": p.line, "problem": p.problem}) for p in inputs.skipped]
    if options.skip_bad:
        write_text(options.out / "skipped.jsonl", "".join(line + "\n" for line in lines))


def _to_parquet(path: Path, frame: pd.DataFrame) -> None:
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)


def _split(row: Encoded, values: np.ndarray) -> tuple[float | None, np.ndarray]:
    """Return the prompt's share (None in the loss reading) and the values of the response's tokens.

    In the position reading, a response token takes the value of the position that predicts it, and
    what is left (the prompt before its last position, the sequence's last token) is the prompt's share.
    """
    if len(values) == row.n_tokens:
        return None, values
    first = int(row.loss_mask.nonzero()[0])
    own = values[first - 1 : first - 1 + row.n_tokens]
    return float(values.sum(dtype=np.float64) - own.sum(dtype=np.float64)), own


def _sentence_table(inputs: Inputs, tokens: TokenScores) -> pd.DataFrame:
    parts = []
    for target, rows in tokens.items():
        for example, row, values in zip(inputs.train, inputs.encoded, rows, strict=True):
            share, own = _split(row, values)
            spans = _spans(example)
            sums = sum_over_spans(own.astype(np.float64), row.offsets, [(s.start, s.end) for s in spans])
            part = pd.DataFrame(
                {
                    "id": example.id,
                    "index": range(len(spans)),
                    "start": [s.start for s in spans],
                    "end": [s.end for s in spans],
                    "target": target,
                    "score": sums,
                }
            )
            if share is not None:
                part.loc[len(part)] = [example.id, -1, 0, 0, target, share]
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _spans(example: Example) -> tuple[Sentence, ...]:
    return example.sentences or split_sentences(example.response)


def _token_table(tokenizer: Any, inputs: Inputs, tokens: TokenScores) -> pd.DataFrame:
    parts = []
    for target, rows in tokens.items():
        for example, row, values in zip(inputs.train, inputs.encoded, rows, strict=True):
            share, own = _split(row, values)
            where = row.loss_mask.nonzero()[:, 0].tolist()
            part = pd.DataFrame(
                {
                    "id": example.id,
                    "position": where,
                    "token": [tokenizer.decode([int(row.input_ids[t])]) for t in where],
                    "start": [start for start, _ in row.offsets],
                    "end": [end for _, end in row.offsets],
                    "target": target,
                    "score": own.astype(np.float64),
                }
            )
            if share is not None:
                part.loc[len(part)] = [example.id, -1, "", 0, 0, target, share]
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _write_provenance(
    options: Options,
    model: Any,
    inputs: Inputs,
    names: Sequence[str],
    checks: Mapping[str, Any],
    seconds: float,
) -> None:
    write_json(
        options.out / "provenance.json",
        {
            "options": {
                key: str(value) if isinstance(value, Path) else value
                for key, value in asdict(options).items()
            },
            "inputs": {str(path): file_digest(path) for path in (options.train, options.target)},
            "train_examples": len(inputs.train),
            "target_examples": {name: len(rows) for name, rows in inputs.targets.items()},
            "skipped": len(inputs.skipped),
            "architecture": type(model).__name__,
            "layers": list(names),
            "reading": options.reading,
            "units": "nats of the target per unit of weight in a loss that is a mean over examples",
            "sign": "positive: up-weighting the example raises the target",
            "checks": dict(checks),
            "environment": environment(options.device),
            "seconds": round(seconds, 2),
        },
    )
