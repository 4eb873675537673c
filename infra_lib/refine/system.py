"""The damped Gauss–Newton system of several targets, with its EK-FAC preconditioner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra_lib.curvature import Factors
from infra_lib.errors import ParameterError
from infra_lib.influence import Direction, check_model, precondition
from infra_lib.models import Encoded
from infra_lib.refine.gauss_newton import GaussNewton
from infra_lib.refine.stacks import Stacked, dot, norm


class System:
    """The system (G + Λ_λ) V = ∇f of several targets, with its EK-FAC preconditioner.

    Parameters
    ----------
    factors
        Of the same model; they give the preconditioner and, by their mean eigenvalues, the damping.
    gradients
        Target name to ∇f.
    damping
        Multiple of each layer's mean eigenvalue, as in :func:`infra_lib.influence.precondition`.

    Raises
    ------
    ParameterError
        For no target, no examples, or a damping that is not above 0.
    ModelError
        For factors of another model, or without a layer of the gradients.
    """

    def __init__(
        self,
        model: Any,
        encoded: Sequence[Encoded],
        factors: Factors,
        gradients: Mapping[str, Direction],
        *,
        damping: float = 0.1,
        pad_id: int = 0,
        batch_tokens: int = 4096,
    ) -> None:
        if not gradients:
            raise ParameterError("target", 0, "at least one target gradient")
        check_model(factors, model)
        self.targets = list(gradients)
        names = tuple(next(iter(gradients.values())))
        self.matrix = GaussNewton(model, names, encoded, pad_id, batch_tokens)
        self.right: Stacked = {n: torch.stack([g[n] for g in gradients.values()]) for n in names}
        self._factors, self._relative = factors, damping
        self.start = self.preconditioned(self.right)
        """EK-FAC's own solution, which also checked the damping and the layers."""
        self.damping = {n: damping * float(factors.eigenvalues(n, "ekfac").mean()) for n in names}
        self._scale = norm(self.right), np.sqrt(dot(self.right, self.start))

    def preconditioned(self, stacked: Stacked) -> Stacked:
        """Return P⁻¹ V, P the damped EK-FAC curvature."""
        return precondition(self._factors, stacked, damping=self._relative)

    def product(self, stacked: Stacked, rows: Sequence[int] | None = None) -> Stacked:
        """Return (G + Λ_λ) V, G over all training examples or over those of ``rows``."""
        found = self.matrix.product(stacked, rows)
        return {name: part + self.damping[name] * stacked[name] for name, part in found.items()}

    def residual(self, stacked: Stacked, rows: Sequence[int] | None = None) -> Stacked:
        """Return ∇f − (G + Λ_λ) V."""
        found = self.product(stacked, rows)
        return {name: self.right[name] - part for name, part in found.items()}

    def relative(self, residual: Stacked) -> tuple[np.ndarray, np.ndarray]:
        """Return the residual's norm over that of ∇f, plain and natural, each of shape [targets]."""
        natural = np.sqrt(dot(residual, self.preconditioned(residual)))
        return norm(residual) / self._scale[0], natural / self._scale[1]

    def split(self, stacked: Stacked) -> dict[str, dict[str, Tensor]]:
        """Return a stack as one direction per target."""
        return {t: {n: part[k] for n, part in stacked.items()} for k, t in enumerate(self.targets)}
