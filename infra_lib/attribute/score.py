"""Scores under one model: fit, differentiate, precondition, score, check; and the mean over several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from infra_lib import baselines
from infra_lib.attribute import checks as guards
from infra_lib.attribute.inputs import Inputs
from infra_lib.attribute.options import CURVATURE, GRADIENT, Options
from infra_lib.attribute.refinement import refine_directions, refinement_record
from infra_lib.attribute.scorer import Scorer, TokenScores, squared_norm
from infra_lib.curvature import Factors, fit_factors
from infra_lib.distributed import is_main
from infra_lib.errors import NumericalError
from infra_lib.influence import Direction, example_scores, precondition_all, target_gradient
from infra_lib.models import Encoded


@dataclass(frozen=True)
class Scores:
    """Scores of the training examples, with what was checked.

    Attributes
    ----------
    examples
        Target name to scores [examples], sums over tokens.
    tokens
        Token scores; None for methods without.
    self_influence
        [examples]; None where it was not asked for.
    checks
        For ``provenance.json``.
    """

    examples: dict[str, np.ndarray]
    tokens: TokenScores | None = None
    self_influence: np.ndarray | None = None
    checks: dict[str, Any] = field(default_factory=dict)


def score_model(
    options: Options, model: Any, names: Sequence[str], inputs: Inputs, *, pad_id: int, progress: bool
) -> Scores:
    """Score every training example on every target under one model.

    Parameters
    ----------
    model
        Below float32 it is converted to float32 in place, by the last check.
    names
        Layers to differentiate by.

    Raises
    ------
    NumericalError
        For scores, factors or gradients that mean nothing (:mod:`infra_lib.attribute.checks`).
    """
    size: dict[str, Any] = {"pad_id": pad_id, "batch_tokens": options.batch_tokens}
    try:
        if options.method in GRADIENT:
            found = _by_gradients(options, model, names, inputs, size, progress)
        else:
            found = _plain(options, model, inputs, size)
    except NumericalError as error:
        if options.dtype == "float32":
            raise
        reason = "whose largest number is 65504" if options.dtype == "float16" else "with 3 digits"
        raise NumericalError(
            f"{error} (computed in {options.dtype}, {reason}: use --dtype float32)"
        ) from error
    guards.refuse_meaningless(found.examples)
    return found


def mean_of(parts: Sequence[Scores]) -> Scores:
    """Return the mean over models: of example scores, of token scores, of self-influence."""
    first = parts[0]
    if len(parts) == 1:
        return first
    examples = {name: np.mean([part.examples[name] for part in parts], axis=0) for name in first.examples}
    tokens = None
    if first.tokens is not None:
        tokens = {
            name: [
                np.mean(rows, axis=0)
                for rows in zip(*(part.tokens[name] for part in parts if part.tokens), strict=True)
            ]
            for name in first.tokens
        }
    own = [part.self_influence for part in parts if part.self_influence is not None]
    guards.refuse_meaningless(examples)
    return Scores(examples, tokens, np.mean(own, axis=0) if own else None, first.checks)


def _plain(options: Options, model: Any, inputs: Inputs, size: Mapping[str, Any]) -> Scores:
    """Return scores of the methods without gradients."""
    if options.method == "random":
        return Scores(baselines.chance(inputs.train, list(inputs.targets), seed=options.seed))
    if options.method == "bm25":
        return Scores(baselines.lexical(inputs.train, inputs.target_examples))
    if options.method == "length":
        return Scores(dict.fromkeys(inputs.targets, baselines.lengths(inputs.encoded)))
    values = baselines.losses(model, inputs.encoded, **size)
    guards.refuse_meaningless(dict.fromkeys(inputs.targets, values))
    rows = guards.sample(len(inputs.encoded), guards.ALONE)
    alone = baselines.losses(
        model, [inputs.encoded[row] for row in rows], pad_id=size["pad_id"], batch_tokens=1
    )
    difference = float(np.abs(alone - values[rows]).max() / np.abs(values).max())
    checked: dict[str, Any] = {"single_against_batch": dict.fromkeys(inputs.targets, difference)}
    if options.dtype == "float32":
        guards.refuse_batch_dependence(difference, "losses")
    else:
        rows = guards.sample(len(inputs.encoded), guards.SAMPLE)
        exact = baselines.losses(model.float(), [inputs.encoded[row] for row in rows], **size)
        found = dict.fromkeys(inputs.targets, guards.compare(values[rows], exact))
        checked["against_float32"] = found
        checked["warnings"] = guards.judge(found, options.dtype, with_tokens=False)
    return Scores(dict.fromkeys(inputs.targets, values), checks=checked)


def score_trak(
    options: Options,
    model: Any,
    states: Sequence[Mapping[str, Any]] | None,
    inputs: Inputs,
    *,
    pad_id: int,
) -> Scores:
    """Score with TRAK, whose own ensemble takes all checkpoints at once."""
    # here, since trak configures logging when imported
    from infra_lib.trak_scores import batch_dependence, trak_scores

    rows = [inputs.encoded[row] for row in guards.sample(len(inputs.encoded), guards.ALONE)]
    difference = batch_dependence(
        model, rows, pattern=options.layers, pad_id=pad_id, batch_tokens=options.batch_tokens
    )
    guards.refuse_batch_dependence(difference, "TRAK's gradients")
    found = trak_scores(
        model,
        inputs.encoded,
        inputs.targets,
        checkpoints=states,
        pattern=options.layers,
        seed=options.seed,
        pad_id=pad_id,
        batch_tokens=options.batch_tokens,
    )
    guards.refuse_meaningless(found.scores)
    checked = {
        "self_rank": found.self_rank,
        "single_against_batch": dict.fromkeys(inputs.targets, difference),
    }
    return Scores(found.scores, checks=checked)


def _by_gradients(
    options: Options,
    model: Any,
    names: Sequence[str],
    inputs: Inputs,
    size: Mapping[str, Any],
    progress: bool,
) -> Scores:
    checked: dict[str, Any] = {}
    factors = _factors(options, model, inputs, size, progress) if options.method in CURVATURE else None
    if factors:
        checked["factors"] = guards.worst(factors.checks)

    def gradient(rows: Sequence[Encoded]) -> Direction:
        return target_gradient(model, names, rows, per_token=options.target_mean == "token", **size)

    gradients = {target: gradient(rows) for target, rows in inputs.targets.items()}
    directions = plain = _directions(options, factors, gradients)
    refined = None
    if options.refine and factors:
        refined = refine_directions(
            options, model, inputs, factors, gradients, pad_id=size["pad_id"], progress=progress
        )
        directions = refined.directions
    scorer = Scorer(
        model,
        directions,
        options.reading,
        cosine_to=_norms(gradients) if options.method == "gradcos" else None,
        factors=factors,
        damping=options.damping,
        curvature=options.method,
        divide_by_self=options.normalise == "self",
        memory_bytes=options.memory_bytes,
        **size,
    )
    own = None
    if options.self_influence or scorer.divide_by_self or scorer.cosine_to:
        own = scorer.self_influence(inputs.encoded)
    tokens = scorer(inputs.encoded, progress=progress, own=own)
    totals = example_scores(tokens)
    guards.refuse_meaningless(totals)
    if refined:
        unrefined = example_scores(
            replace(scorer, directions=plain)(inputs.encoded, progress=progress, own=own)
        )
        checked["refinement"] = refinement_record(refined, unrefined, totals)
    exact = options.dtype == "float32"
    checked["single_against_batch"] = guards.single_against_batch(
        scorer, inputs.encoded, totals, enforce=exact
    )
    if not exact:
        found = guards.against_float32(scorer, inputs.encoded, tokens, inputs.targets, gradient)
        checked["against_float32"] = found
        finer = set(options.levels) != {"example"}
        checked["warnings"] = guards.judge(found, options.dtype, with_tokens=finer)
    return Scores(totals, tokens, own if options.self_influence else None, checked)


def _directions(
    options: Options, factors: Factors | None, gradients: Mapping[str, Direction]
) -> Mapping[str, Direction]:
    """Return what examples are scored along: the preconditioned gradients, or the gradients themselves."""
    if factors is None:
        return gradients
    return precondition_all(factors, gradients, damping=options.damping, method=options.method)


def _norms(gradients: Mapping[str, Direction]) -> dict[str, float]:
    return {target: float(np.sqrt(squared_norm(gradient))) for target, gradient in gradients.items()}


def _factors(
    options: Options, model: Any, inputs: Inputs, size: Mapping[str, Any], progress: bool
) -> Factors:
    return fit_factors(
        model,
        inputs.encoded,
        labels=options.labels,
        pattern=options.layers,
        seed=options.seed,
        memory_bytes=options.memory_bytes,
        diagonal=options.method == "diagonal",
        folder=_factor_folder(options.out),
        progress=progress,
        **size,
    )


def _factor_folder(out: Path) -> Path:
    folder = out / "factors"
    if is_main():
        folder.mkdir(exist_ok=True)
    return folder
