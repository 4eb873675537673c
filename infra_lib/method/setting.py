"""One model of a study with a subset of its training examples: what the method page looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infra_lib.curvature import Factors, fit_factors
from infra_lib.examples import Example
from infra_lib.influence import Direction, position_scores, precondition_all, target_gradient, token_scores
from infra_lib.models import Encoded, encode, load_model, load_tokenizer
from infra_lib.refine import System

TokenScores = dict[str, list[np.ndarray]]

LEFT_OUT = "This study leaves the method notebook out (<code>method_examples: 0</code>)."
"""What stands on pages in place of its results."""


@dataclass(frozen=True)
class Setting:
    """A model, a subset of its training examples, and each target's gradient.

    Attributes
    ----------
    train, encoded
        The subset, and its tokens in the same order.
    target_sizes
        Target name to the number of correct responses behind its gradient.
    factors
        Curvature of the subset.
    gradients
        Target name to ∇f.
    pad_id, batch_tokens
        Of batches in which the subset goes through the model: padding, and padded tokens at most.
    memory_bytes
        For directions that the sweep holds at a time.
    """

    model: Any
    train: list[Example]
    encoded: list[Encoded]
    target_sizes: dict[str, int]
    factors: Factors
    gradients: dict[str, Direction]
    pad_id: int
    batch_tokens: int = 4096
    memory_bytes: int = 2 * 2**30

    def counts(self) -> pd.DataFrame:
        """Return how much of everything the page rests on, in one row."""
        values = {
            "training examples": len(self.train),
            "response tokens": self.factors.positions,
            "layers": len(self.factors.layers),
            "weights": sum(layer.corrected.numel() for layer in self.factors.layers.values()),
        }
        named = {f"correct {target} responses": size for target, size in self.target_sizes.items()}
        return pd.DataFrame([values | named])

    def directions(self, damping: float) -> dict[str, dict[str, Tensor]]:
        """Return the EK-FAC direction of each target."""
        return precondition_all(self.factors, self.gradients, damping=damping)

    def both_readings(self, directions: Mapping[str, Direction]) -> tuple[TokenScores, TokenScores]:
        """Return the loss-term and the position scores of every token."""
        options: dict[str, Any] = {"pad_id": self.pad_id, "batch_tokens": self.batch_tokens}
        return (
            token_scores(self.model, self.encoded, directions, **options),
            position_scores(self.model, self.encoded, directions, **options),
        )

    def system(self, damping: float) -> System:
        """Return the Gauss–Newton system of the subset."""
        return System(
            self.model,
            self.encoded,
            self.factors,
            self.gradients,
            damping=damping,
            pad_id=self.pad_id,
            batch_tokens=self.batch_tokens,
        )


def open_setting(
    model_folder: Path,
    train: Sequence[Example],
    targets: Mapping[str, Sequence[Example]],
    *,
    examples: int,
    labels: str = "sampled",
    seed: int = 0,
    device: str = "cpu",
    max_tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
    batch_tokens: int = 4096,
    memory_bytes: int = 2 * 2**30,
) -> Setting:
    """Load a model, draw the subset, fit its curvature and take the targets' gradients.

    Parameters
    ----------
    train, targets
        The study's training examples, and each target's correct responses.
    examples
        Size of the subset, and the most responses of a target; all are taken where there are fewer.
    seed
        Of the draw and of the sampled labels.
    max_tokens, dtype, batch_tokens, memory_bytes
        As in :func:`infra_lib.scoring.attribute`.
    """
    model, tokenizer = load_model(model_folder, dtype=dtype, device=device), load_tokenizer(model_folder)
    pad = tokenizer.pad_token_id or 0
    cut: dict[str, Any] = {"end_token": True, "max_tokens": max_tokens}
    size: dict[str, Any] = {"pad_id": pad, "batch_tokens": batch_tokens}
    chosen = subset(train, examples, seed)
    encoded = [encode(tokenizer, example, **cut) for example in chosen]
    factors = fit_factors(
        model, encoded, labels=labels, seed=seed, diagonal=True, memory_bytes=memory_bytes, **size
    )
    correct = {
        name: [encode(tokenizer, example, **cut) for example in subset(rows, examples, seed)]
        for name, rows in sorted(targets.items(), reverse=True)
    }
    names = list(factors.layers)
    gradients: dict[str, Direction] = {
        name: target_gradient(model, names, rows, **size) for name, rows in correct.items()
    }
    sizes = {name: len(rows) for name, rows in correct.items()}
    return Setting(model, chosen, encoded, sizes, factors, gradients, pad, batch_tokens, memory_bytes)


def subset(examples: Sequence[Example], size: int, seed: int) -> list[Example]:
    """Return at most ``size`` examples drawn without replacement, in their own order.

    The draw depends on (seed, ids) and not on the order.
    """
    by_id = sorted(range(len(examples)), key=lambda k: examples[k].id)
    drawn = np.random.default_rng(seed).permutation(len(by_id))[:size]
    return [examples[k] for k in sorted(by_id[j] for j in drawn)]
