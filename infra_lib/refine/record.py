"""What a refinement returns, and the record of how it came there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from infra_lib.errors import NumericalError
from infra_lib.refine.stacks import Stacked, add, dot, ratio
from infra_lib.refine.system import System


@dataclass(frozen=True)
class Refined:
    """Refined directions, and how far they came.

    Attributes
    ----------
    directions
        Target name to direction, one tensor [out, in] per layer.
    record
        Columns target, iteration, products (with one example each, taken so far, those of residuals
        included), residual, natural, gain. With r = ∇f − (G + Λ_λ) V over the whole training set,
        ``residual`` is ‖r‖ / ‖∇f‖, which the few directions of large curvature rule, and ``natural`` the
        same in the norm √(rᵀ P⁻¹ r), where each direction counts by its effect on scores; V = 0 has 1 in
        both. Neither falls at every step of conjugate gradients. ``gain`` is what these do raise at each
        step: ∇fᵀV + rᵀV, which ends at the target's influence on itself ∇fᵀ(G + Λ_λ)⁻¹∇f, over its value
        at iteration 0. Iteration 0 is the EK-FAC direction times ``scale``.
    scale
        Target name to the factor by which EK-FAC's direction solves the system best. It changes no rank.
    unscaled
        Target name to (residual, natural) of EK-FAC's direction as it is.
    step
        Step size of the stochastic iterations; None for conjugate gradients.
    """

    directions: dict[str, dict[str, Tensor]]
    record: pd.DataFrame
    scale: dict[str, float]
    unscaled: dict[str, tuple[float, float]]
    step: float | None = None

    def residuals(self, kind: str = "residual") -> dict[str, dict[str, float]]:
        """Return, per target, the residuals of EK-FAC as it is, of EK-FAC rescaled, and of the refined.

        Parameters
        ----------
        kind
            ``residual`` or ``natural``.
        """
        found = {}
        for target, rows in self.record.groupby("target"):
            ordered = rows.sort_values("iteration")[kind]
            found[str(target)] = {
                "ekfac": self.unscaled[str(target)][kind == "natural"],
                "ekfac_rescaled": float(ordered.iloc[0]),
                "refined": float(ordered.iloc[-1]),
            }
        return found


class Record:
    """Residuals as they come, shown on a progress bar, and the start that both solvers share.

    Attributes
    ----------
    scale
        Best factor of EK-FAC's direction per target, from the first product with the training set; in
        the norm of the system's matrix this is the first step of conjugate gradients from zero.
    image
        (G + Λ_λ) times EK-FAC's direction.
    start, residual
        EK-FAC's direction times ``scale``, and its residual.
    """

    def __init__(self, system: System, iterations: int, what: str, progress: bool) -> None:
        self._system = system
        self._rows: list[dict[str, Any]] = []
        self.products = len(system.matrix.encoded)
        self.bar = tqdm(total=iterations, desc=what, unit="iteration", disable=not progress)
        self.image = system.product(system.start)
        self.scale = ratio(dot(system.start, system.right), dot(system.start, self.image))
        self._unscaled = system.relative(add(system.right, self.image, -np.ones_like(self.scale)))
        self.residual = add(system.right, self.image, -self.scale)
        self.start = add(system.start, system.start, self.scale - 1)
        self._first = self._captured(self.start, self.residual)
        self.worst = self.add(0, self.start, self.residual)

    def _captured(self, solution: Stacked, residual: Stacked) -> np.ndarray:
        return dot(self._system.right, solution) + dot(residual, solution)

    def add(self, iteration: int, solution: Stacked, residual: Stacked) -> float:
        """Keep the relative residuals of an iteration and return the largest natural one."""
        plain, natural = self._system.relative(residual)
        gain = self._captured(solution, residual) / self._first
        at = {"iteration": iteration, "products": self.products}
        self._rows += [
            {"target": t, **at, "residual": float(a), "natural": float(b), "gain": float(c)}
            for t, a, b, c in zip(self._system.targets, plain, natural, gain, strict=True)
        ]
        self.bar.set_postfix(residual=f"{natural.max():.2e}", refresh=False)
        return float(natural.max())

    def close(self, solution: Stacked, step: float | None = None) -> Refined:
        """Return the result."""
        self.bar.close()
        if not all(torch.isfinite(part).all() for part in solution.values()):
            raise NumericalError("a refined direction is not finite")
        targets = self._system.targets
        return Refined(
            self._system.split(solution),
            pd.DataFrame(self._rows),
            dict(zip(targets, self.scale.tolist(), strict=True)),
            {t: (float(a), float(b)) for t, a, b in zip(targets, *self._unscaled, strict=True)},
            step,
        )
