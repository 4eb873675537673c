"""The setting of a study's validation: which examples, which responses as targets, which retrainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from infra_lib.errors import ParameterError
from infra_lib.examples import Example
from infra_lib.experiment import Run
from infra_lib.models import encode, load_model, load_tokenizer
from infra_lib.study import VALIDATION_METHODS
from infra_lib.validation.retraining import Retraining, Setting, log_probs, retrainings, target_values
from infra_lib.validation.scores import Columns, Settings
from infra_lib.validation.subsets import half_subsets, spread_choice
from infra_lib.validation.targets import TOKENS, token_mask

RESPONSES = ("reference", "own")
"""Whose correct responses a target is made of: the data's, or those that the model wrote."""


@dataclass(frozen=True)
class Bench:
    """What a study's validation works on.

    Attributes
    ----------
    params
        The study.
    train, problems
        Training examples that subsets are taken from, and problems of the target.
    runs
        Fine-tunings on all of these examples, one per seed, whose scores are validated.
    folder
        Where results of retrainings go.
    """

    params: Any
    train: tuple[Example, ...]
    problems: tuple[Example, ...]
    runs: tuple[Run, ...]
    folder: Path

    @cached_property
    def membership(self) -> np.ndarray:
        """Random halves, bool [subsets, examples]."""
        ids = [example.id for example in self.train]
        return half_subsets(ids, self.params.validation_subsets, seed=self.params.seed)

    @cached_property
    def seeds(self) -> list[list[int]]:
        """Seeds of each subset's retrainings: more for the first ones, which measure the noise."""
        few, many = self.params.validation_seeds, self.params.ceiling_seeds
        counts = [
            max(few, many) if row < self.params.ceiling_subsets else few
            for row in range(len(self.membership))
        ]
        # Numbers of their own, so that no retraining shares its order of examples with a scored model.
        return [[1000 + 100 * row + k for k in range(count)] for row, count in enumerate(counts)]


def open_bench(
    params: Any, train: Sequence[Example], problems: Sequence[Example], *, root: Path, runs: Path
) -> Bench:
    """Choose examples and problems, in equal parts by domain and difficulty, and set up the models.

    Parameters
    ----------
    params
        The study's parameters.
    root, runs
        The project's folder, and that of training runs.
    """
    chosen = _spread(train, params.validation_examples, params.seed)
    asked = _spread(
        [problem for problem in problems if problem.response.strip()], params.validation_targets, params.seed
    )
    if not asked:
        raise ParameterError("target_sources", params.target_sources, "problems that come with a solution")
    config = replace(
        params.finetune_config(),
        epochs=params.validation_epochs,
        learning_rate=params.validation_learning_rate,
    )
    base_seed = params.base_seeds[0]
    models = tuple(
        Run(
            arm="validation",
            base_seed=base_seed,
            seed=seed,
            base=params.base_of(base_seed, root),
            train=chosen,
            test=asked,
            config=config,
            root=runs,
            sampling=params.sampling(),
            engine=params.engine,
            device=params.device,
            devices=params.devices_per_run,
            sandbox=params.sandbox,
        )
        for seed in range(params.validation_models)
    )
    return Bench(params, tuple(chosen), tuple(asked), models, runs / "retrained")


def _spread(examples: Sequence[Example], size: int, seed: int) -> list[Example]:
    strata = [(example.domain, example.difficulty) for example in examples]
    return [examples[row] for row in spread_choice([ex.id for ex in examples], strata, size, seed=seed)]


@dataclass(frozen=True)
class Targets:
    """Correct responses, as columns, and the targets that can be formed from them.

    Attributes
    ----------
    bench
        What they belong to.
    responses
        The data's own solutions, then the first model's correct answers.
    own
        bool [responses], True for the model's.
    masks
        By choice of tokens: bool [response tokens] of each response.
    """

    bench: Bench
    responses: tuple[Example, ...]
    own: np.ndarray
    masks: Mapping[str, list[np.ndarray]]

    @property
    def domains(self) -> list[str]:
        """Domains that have a target, the first letter's last one first, as on other pages."""
        return sorted({example.domain for example in self.responses}, reverse=True)

    def weights(
        self, domain: str, *, responses: str = "reference", balanced: bool = False, level: int | None = None
    ) -> np.ndarray:
        """Return each response's share of a target [responses]; all zero where it has no response.

        Parameters
        ----------
        responses
            ``reference`` or ``own``.
        balanced
            Give each difficulty the same share, however many responses it has.
        level
            Responses of this difficulty alone.
        """
        counted = np.array(
            [
                row.domain == domain
                and (level is None or row.difficulty == level)
                and own == (responses == "own")
                for row, own in zip(self.responses, self.own, strict=True)
            ]
        )
        if not counted.any():
            return np.zeros(len(counted))
        shares = counted / counted.sum()
        if balanced:
            levels = np.array([str(row.difficulty) for row in self.responses])
            for value in np.unique(levels[counted]):
                shares[counted & (levels == value)] = 1 / (counted & (levels == value)).sum()
            shares /= shares.sum()
        return shares

    def columns(self, tokens: str, *, responses: str = "reference") -> Columns:
        """Return the columns of a choice of tokens and responses, with the domains' targets."""
        rows = np.flatnonzero(self.own == (responses == "own"))
        whole = {d: self.weights(d, responses=responses)[rows] for d in self.domains}
        return Columns(
            [self.responses[i] for i in rows],
            [self.masks[tokens][i] for i in rows],
            {name: weights for name, weights in whole.items() if weights.any()},
        )

    def choices(self) -> dict[tuple[str, str], Columns]:
        """Return the columns of every choice of tokens and responses that has any."""
        every = {(t, r): self.columns(t, responses=r) for t in TOKENS for r in RESPONSES}
        return {name: columns for name, columns in every.items() if columns.targets}

    def setting(self) -> Setting:
        """Return what retrainings have in common."""
        params, first = self.bench.params, self.bench.runs[0]
        return Setting(
            base=first.base,
            train=self.bench.train,
            targets=self.responses,
            config=first.config,
            folder=self.bench.folder,
            device=params.device,
            max_tokens=params.max_tokens,
        )

    def jobs(self, membership: np.ndarray, seeds: Sequence[Sequence[int]]) -> list[Retraining]:
        """Return retrainings on subsets, each with its seeds."""
        return retrainings(self.setting(), membership, seeds)

    def of_models(self, tokens: str, runs: Sequence[Run] | None = None) -> np.ndarray:
        """Return what models say of the responses [models, responses], in nats.

        Parameters
        ----------
        runs
            Finished trainings; None means those on everything.
        """
        found = []
        setting = self.setting()
        for run in self.bench.runs if runs is None else runs:
            tokenizer = load_tokenizer(run.folder)
            model = load_model(run.folder, device=setting.device, attn_implementation="sdpa")
            found.append(log_probs(model, setting.encoded(tokenizer, self.responses)))
        return target_values(found, self.masks[tokens])


def form_targets(bench: Bench, answers: pd.DataFrame) -> Targets:
    """Return the data's solutions and the first model's correct answers as targets.

    Parameters
    ----------
    answers
        Graded answers of the bench's runs to its problems: columns seed, id, response, correct.
    """
    first = answers[(answers["seed"] == bench.runs[0].seed) & answers["correct"]].drop_duplicates("id")
    written = dict(zip(first["id"], first["response"], strict=True))
    own = [replace(ex, response=written[ex.id], sentences=()) for ex in bench.problems if ex.id in written]
    responses = (*bench.problems, *own)
    tokenizer = load_tokenizer(bench.runs[0].base)
    config = bench.runs[0].config
    offsets = [
        encode(
            tokenizer,
            row,
            end_token=config.end_token,
            chat_template=config.chat_template,
            max_tokens=bench.params.max_tokens,
        ).offsets
        for row in responses
    ]
    masks = {
        tokens: [
            token_mask(row.response, spans, tokens) for row, spans in zip(responses, offsets, strict=True)
        ]
        for tokens in TOKENS
    }
    is_own = np.arange(len(responses)) >= len(bench.problems)
    return Targets(bench, responses, is_own, masks)


def method_settings(params: Any, **others: Any) -> Settings:
    """Return how the study's methods are run."""
    values: dict[str, Any] = {
        "methods": [m for m in VALIDATION_METHODS if m not in params.validation_without],
        "dampings": params.validation_dampings,
        "layers": params.validation_layers,
        "refine_dampings": params.validation_refine_dampings,
        "refine_iterations": params.validation_refine_passes,
        "labels": params.factor_labels,
        "seed": params.seed,
        "max_tokens": params.max_tokens,
        "batch_tokens": params.batch_tokens,
        "device": params.device,
    }
    return Settings(**{**values, **others})
