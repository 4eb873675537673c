"""Token scores of any examples along fixed directions, in the chosen reading, precision and normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from infra_lib.attribute.normalise import by_root
from infra_lib.baselines import gradient_norms
from infra_lib.curvature import Factors, out_by_in
from infra_lib.influence import Direction, position_scores, token_scores
from infra_lib.models import Encoded

TokenScores = dict[str, list[np.ndarray]]
"""Target name to one array [tokens] per example."""


@dataclass(frozen=True)
class Scorer:
    """Scores examples along directions; called with examples, it gives :data:`TokenScores`.

    Attributes
    ----------
    directions
        Target name to direction.
    reading
        ``loss`` or ``position``.
    cosine_to
        Target name to the norm of its gradient, to divide by it and by the norm of each example's own
        gradient; None for scores that are no cosines.
    factors, damping, curvature
        Of self-influence; None for the plain squared norm of the gradient.
    divide_by_self
        Divide each example's scores by the root of its self-influence.
    pad_id, batch_tokens
        Of the batches.
    memory_bytes
        Of a GPU, for the factors behind self-influence.
    """

    model: Any
    directions: Mapping[str, Direction]
    reading: str
    cosine_to: Mapping[str, float] | None = None
    factors: Factors | None = None
    damping: float = 0.1
    curvature: str = "ekfac"
    divide_by_self: bool = False
    pad_id: int = 0
    batch_tokens: int = 4096
    memory_bytes: int = 2**33

    def __call__(
        self,
        encoded: Sequence[Encoded],
        *,
        batch_tokens: int | None = None,
        progress: bool = False,
        own: np.ndarray | None = None,
    ) -> TokenScores:
        """Score examples.

        Parameters
        ----------
        own
            Their self-influence, where it is known already.
        """
        room = batch_tokens or self.batch_tokens
        score = token_scores if self.reading == "loss" else position_scores
        directions, scales = self._scaled()
        tokens = score(
            self.model, encoded, directions, pad_id=self.pad_id, batch_tokens=room, progress=progress
        )
        tokens = {target: [row * scales[target] for row in rows] for target, rows in tokens.items()}
        if self.cosine_to is None and not self.divide_by_self:
            return tokens
        if own is None:
            own = self.self_influence(encoded, batch_tokens=room)
        norms = self.cosine_to or dict.fromkeys(tokens, 1.0)
        return {target: by_root(rows, own * norms[target] ** 2) for target, rows in tokens.items()}

    def self_influence(self, encoded: Sequence[Encoded], *, batch_tokens: int | None = None) -> np.ndarray:
        """Return gᵀ(H + λ)⁻¹g of each example [examples], or ‖g‖² without factors."""
        return gradient_norms(
            self.model,
            encoded,
            list(next(iter(self.directions.values()))),
            factors=self.factors,
            damping=self.damping,
            method=self.curvature,
            pad_id=self.pad_id,
            batch_tokens=batch_tokens or self.batch_tokens,
            memory_bytes=self.memory_bytes,
        )

    def _scaled(self) -> tuple[Mapping[str, Direction], Mapping[str, float]]:
        """Return directions as long as the weights themselves, and what to multiply scores by.

        Scores are linear in the direction. A preconditioned one can lie far outside of the numbers that
        float16 has; one of the weights' length changes activations by as much as there is of them.
        """
        modules = dict(self.model.named_modules())
        if modules[next(iter(next(iter(self.directions.values()))))].weight.dtype == torch.float32:
            return self.directions, dict.fromkeys(self.directions, 1.0)
        scaled, scales = {}, {}
        for target, direction in self.directions.items():
            weights = sum(
                float(out_by_in(modules[name], modules[name].weight.detach()).float().square().sum())
                for name in direction
            )
            scales[target] = float(np.sqrt(squared_norm(direction) / weights))
            scaled[target] = {name: part / scales[target] for name, part in direction.items()}
        return scaled, scales


def squared_norm(direction: Direction) -> float:
    """Return the sum of squares over all layers."""
    return sum(float(part.double().square().sum()) for part in direction.values())
