"""Every method's scores of a training set under one model, on every target example."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from infra_lib import baselines
from infra_lib.curvature import Factors, fit_factors
from infra_lib.errors import ParameterError
from infra_lib.examples import Example
from infra_lib.influence import target_gradient
from infra_lib.jobs import run_jobs
from infra_lib.method.sweeps import scores_along
from infra_lib.models import Encoded, encode, load_model, load_tokenizer
from infra_lib.refine import System, conjugate_gradients
from infra_lib.study import VALIDATION_METHODS
from infra_lib.trak_scores import trak_sweep
from infra_lib.validation.gradients import CURVED, Key, gradient_scores
from infra_lib.validation.targets import restricted

LAYERS = {"mlp": None, "all": r"\.layers\.\d+\.|\.h\.\d+\."}
"""Layers whose weights take part: those of the MLPs, or attention's as well."""


Choice = tuple[str, str]
"""Which tokens, and whose responses."""


@dataclass(frozen=True)
class Columns:
    """Target examples as columns of a table of scores.

    Attributes
    ----------
    responses
        One correct response per column.
    masks
        Which of its tokens count, bool [response tokens] each.
    targets
        Target name to weights [columns] that add up to 1, for methods that score whole targets.
    """

    responses: Sequence[Example]
    masks: Sequence[np.ndarray]
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """How methods are run.

    Attributes
    ----------
    methods
        Of :data:`infra_lib.study.VALIDATION_METHODS`.
    dampings
        Of the methods that have one, as multiples of a layer's mean eigenvalue; for TRAK ridges, as
        multiples of the mean diagonal of its kernel.
    layers
        ``mlp`` or ``all``.
    refine_dampings, refine_iterations
        Of conjugate gradients, for ``refined``.
    folder
        Where factors are kept, so that they are fitted once for each model.
    """

    methods: Sequence[str] = VALIDATION_METHODS
    dampings: Sequence[float] = (0.01, 0.1, 1.0, 10.0)
    layers: str = "mlp"
    refine_dampings: Sequence[float] = (1.0,)
    refine_iterations: int = 8
    projections: int = 512
    labels: str = "sampled"
    seed: int = 0
    end_token: bool = True
    max_tokens: int | None = None
    batch_tokens: int = 4096
    device: str = "cpu"
    folder: Path | None = None

    def check(self) -> None:
        """Raise for a method or a choice of layers that does not exist."""
        if unknown := [name for name in self.methods if name not in VALIDATION_METHODS]:
            raise ParameterError("validation_methods", unknown[0], f"one of {', '.join(VALIDATION_METHODS)}")
        if self.layers not in LAYERS:
            raise ParameterError("validation_layers", self.layers, f"one of {', '.join(LAYERS)}")


@dataclass(frozen=True)
class ModelScores:
    """Scores of one model.

    Attributes
    ----------
    tables
        (method, damping) to scores [training examples, columns].
    whole
        Target name to (method, damping) to scores [training examples, 1], for methods without columns.
    seconds
        Wall time by method.
    """

    tables: dict[Key, np.ndarray]
    whole: dict[str, dict[Key, np.ndarray]]
    seconds: dict[str, float]

    def on(self, target: str) -> dict[Key, np.ndarray]:
        """Return all scores on one target."""
        return {**self.tables, **self.whole.get(target, {})}


def score_model(folder: Path, train: Sequence[Example], columns: Columns, settings: Settings) -> ModelScores:
    """Score training examples on each column by each method, under the model in ``folder``.

    Raises
    ------
    ParameterError
        For a setting that cannot be.
    """
    settings.check()
    clock = _Clock()
    model, pad, encoded, asked = _loaded(folder, train, columns, settings)
    batch: dict[str, Any] = {"pad_id": pad, "batch_tokens": settings.batch_tokens}
    tables: dict[Key, np.ndarray] = {}
    whole: dict[str, dict[Key, np.ndarray]] = {name: {} for name in columns.targets}
    factors = _factors(model, encoded, settings, pad)
    clock.note("factors")
    curved = [method for method in settings.methods if method in CURVED]
    found = gradient_scores(model, encoded, asked, factors, settings.dampings, methods=curved, **batch)
    tables |= {key: table for key, table in found.items() if key[0] in settings.methods}
    clock.note("gradients")
    if "refined" in settings.methods:
        for damping in settings.refine_dampings:
            for name, values in _refined(model, encoded, asked, factors, columns, damping, settings, pad):
                whole[name]["refined", float(damping)] = values[:, None]
        clock.note("refined")
    if "trak" in settings.methods:
        questions = {str(i): [row] for i, row in enumerate(asked)}
        with redirect_stderr(io.StringIO()):  # trak's bars, two for each ridge
            swept = trak_sweep(
                model,
                encoded,
                questions,
                settings.dampings,
                proj_dim=settings.projections,
                pattern=LAYERS[settings.layers],
                seed=settings.seed,
                **batch,
            )
        for ridge, found_trak in swept.items():
            columns_of = [found_trak.scores[name] for name in questions]
            tables["trak", float(ridge)] = np.column_stack(columns_of)
        clock.note("trak")
    tables |= _simple(model, train, encoded, len(asked), settings, pad)
    clock.note("baselines")
    return ModelScores(tables, whole, clock.seconds)


def score_models(
    folders: Sequence[Path],
    train: Sequence[Example],
    columns: Columns,
    settings: Settings,
    *,
    processes: int = 1,
    progress: bool = True,
) -> list[ModelScores]:
    """Return :func:`score_model` of several models, in parallel processes."""
    jobs = [(folder, tuple(train), columns, settings) for folder in folders]
    return run_jobs(_score_job, jobs, processes=processes, label="scoring models", progress=progress)


def _score_job(job: tuple[Path, Sequence[Example], Columns, Settings]) -> ModelScores:
    return score_model(*job)


def score_choices(
    folder: Path,
    train: Sequence[Example],
    choices: Mapping[Choice, Columns],
    settings: Settings,
    *,
    damping: float,
) -> dict[Choice, ModelScores]:
    """Score training examples by EK-FAC at one damping on the columns of several targets, in one go."""
    settings.check()
    joined = Columns(
        [row for columns in choices.values() for row in columns.responses],
        [mask for columns in choices.values() for mask in columns.masks],
    )
    model, pad, encoded, asked = _loaded(folder, train, joined, settings)
    factors = _factors(model, encoded, settings, pad)
    batch: dict[str, Any] = {"pad_id": pad, "batch_tokens": settings.batch_tokens}
    found = gradient_scores(model, encoded, asked, factors, [damping], methods=["ekfac"], **batch)
    table, start, scores = found["ekfac", float(damping)], 0, {}
    for name, columns in choices.items():
        part = table[:, start : start + len(columns.responses)]
        scores[name] = ModelScores({("ekfac", float(damping)): part}, {}, {})
        start += len(columns.responses)
    return scores


def _loaded(
    folder: Path, train: Sequence[Example], columns: Columns, settings: Settings
) -> tuple[Any, int, list[Encoded], list[Encoded]]:
    """Return model, padding token, training examples, and columns in the tokens that count."""
    model, tokenizer = load_model(folder, device=settings.device), load_tokenizer(folder)

    def coded(examples: Sequence[Example]) -> list[Encoded]:
        options: dict[str, Any] = {"end_token": settings.end_token, "max_tokens": settings.max_tokens}
        return [encode(tokenizer, example, **options) for example in examples]

    rows = zip(coded(columns.responses), columns.masks, strict=True)
    return model, tokenizer.pad_token_id or 0, coded(train), [restricted(row, mask) for row, mask in rows]


def _factors(model: Any, encoded: Sequence[Encoded], settings: Settings, pad: int) -> Factors:
    return fit_factors(
        model,
        encoded,
        labels=settings.labels,
        pattern=LAYERS[settings.layers],
        seed=settings.seed,
        diagonal=True,
        folder=settings.folder,
        replace_torn=True,
        pad_id=pad,
        batch_tokens=settings.batch_tokens,
        progress=False,
    )


def _refined(
    model: Any,
    encoded: Sequence[Encoded],
    asked: Sequence[Encoded],
    factors: Factors,
    columns: Columns,
    damping: float,
    settings: Settings,
    pad: int,
) -> list[tuple[str, np.ndarray]]:
    """Return scores [training examples] along directions refined by conjugate gradients, per target."""
    batch: dict[str, Any] = {"pad_id": pad, "batch_tokens": settings.batch_tokens}
    gradients = {}
    for name, weights in columns.targets.items():
        counted = np.flatnonzero(weights).tolist()
        if not np.allclose(weights[counted], 1 / len(counted)):
            raise ParameterError("targets", name, "a plain mean of responses where methods are refined")
        rows = [asked[i] for i in counted]
        gradients[name] = target_gradient(model, list(factors.layers), rows, **batch)
    system = System(model, encoded, factors, gradients, damping=damping, **batch)
    refined = conjugate_gradients(system, iterations=settings.refine_iterations, progress=False)
    directions = {("refined", damping, name): refined.directions[name] for name in gradients}
    scores, _ = scores_along(model, encoded, directions, **batch)
    return [(key[2], values) for key, values in scores.items()]


def _simple(
    model: Any,
    train: Sequence[Example],
    encoded: Sequence[Encoded],
    columns: int,
    settings: Settings,
    pad: int,
) -> dict[Key, np.ndarray]:
    """Return the baselines that are asked for, the same for all columns."""
    found = {}
    if "loss" in settings.methods:
        found["loss"] = baselines.losses(model, encoded, pad_id=pad, batch_tokens=settings.batch_tokens)
    if "length" in settings.methods:
        found["length"] = baselines.lengths(encoded)
    if "random" in settings.methods:
        found["random"] = baselines.chance(train, [""], seed=settings.seed)[""]
    return {(name, None): np.repeat(values[:, None], columns, 1) for name, values in found.items()}


def mean_scores(models: Sequence[ModelScores], target: str) -> dict[Key, np.ndarray]:
    """Return scores on a target averaged over models (an ensemble)."""
    tables = [scores.on(target) for scores in models]
    return {key: np.mean([table[key] for table in tables], axis=0) for key in tables[0]}


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def note(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now
