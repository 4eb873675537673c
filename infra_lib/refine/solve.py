"""Solvers of the damped Gauss–Newton system: stochastic Neumann iterations and conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from infra_lib.curvature import Factors
from infra_lib.errors import NumericalError, ParameterError
from infra_lib.influence import Direction, check_model, precondition
from infra_lib.models import Encoded
from infra_lib.refine.gauss_newton import GaussNewton, Stacked


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


class _Record:
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
        self.scale = _ratio(dot(system.start, system.right), dot(system.start, self.image))
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


def conjugate_gradients(
    system: System, *, iterations: int = 20, tolerance: float = 1e-3, progress: bool = True
) -> Refined:
    """Solve a system by preconditioned conjugate gradients over the whole training set.

    Parameters
    ----------
    iterations
        At most so many on top of EK-FAC; each costs one product with the whole training set.
    tolerance
        Stop once every target's natural relative residual is below it.

    Raises
    ------
    ParameterError
        For iterations below 1 or a tolerance that is not above 0.
    NumericalError
        Where the solution is not finite.
    """
    _check_positive(iterations=iterations, tolerance=tolerance)
    record = _Record(system, iterations, "conjugate gradients", progress)
    solution, residual, search, worst = record.start, record.residual, system.start, record.worst
    inner = dot(system.right, system.start)
    for iteration in range(1, iterations + 1):
        if worst <= tolerance:
            break
        turned = system.preconditioned(residual)
        before, inner = inner, dot(residual, turned)
        search = add(turned, search, _ratio(inner, before))
        image = system.product(search)
        record.products += len(system.matrix.encoded)
        length = _ratio(inner, dot(search, image))
        solution = add(solution, search, length)
        residual = add(residual, image, -length)
        worst = record.add(iteration, solution, residual)
        record.bar.update()
    return record.close(solution)


def refine(
    system: System,
    *,
    iterations: int = 100,
    batch_examples: int = 32,
    step: float | None = None,
    average: float = 0.25,
    checks: int = 4,
    tolerance: float = 1e-3,
    seed: int = 0,
    progress: bool = True,
) -> Refined:
    """Solve a system by EK-FAC-preconditioned stochastic Neumann iterations (ASTRA).

    Parameters
    ----------
    iterations
        At most so many on top of EK-FAC; each costs one product with a minibatch.
    batch_examples
        Examples of a minibatch. They go through the training set in an order drawn anew for each pass
        from (seed, ids), so the order of the file does not matter.
    step
        Step size η; None takes 1 over the largest eigenvalue of P⁻¹(G_B + Λ_λ) (:func:`step_size`).
    average
        Part of the iterations, the last, whose iterates are averaged: 0 takes the last one alone.
    checks
        How often the residual is measured on the whole training set besides at the start.
    tolerance
        Stop at a check where every target's natural relative residual is below it.

    Raises
    ------
    ParameterError
        For an option that cannot be.
    NumericalError
        Where the iterations diverge.
    """
    _check_positive(iterations=iterations, batch_examples=batch_examples, checks=checks, tolerance=tolerance)
    if not 0 <= average <= 1:
        raise ParameterError("average", average, "a number from 0 to 1")
    if seed < 0:
        raise ParameterError("seed", seed, "a whole number, 0 or more")
    encoded = system.matrix.encoded
    batch_examples = min(batch_examples, len(encoded))
    if step is None:
        step = step_size(system, batch_examples=batch_examples, seed=seed)
    _check_positive(step=step)
    record = _Record(system, iterations, "refining", progress)
    current = record.start
    estimate, averaged, bound = current, 0, norm(current)
    first = iterations - max(1, round(average * iterations)) + 1
    looks = {math.ceil(iterations * k / checks) for k in range(1, checks + 1)}
    drawn = minibatches(encoded, batch_examples, seed)
    for iteration in range(1, iterations + 1):
        change = system.preconditioned(system.residual(current, next(drawn)))
        current = add(current, change, np.full(len(system.targets), step))
        if not (norm(current) <= 1e6 * bound).all():
            raise _diverged(step, batch_examples)
        averaged += iteration >= first
        estimate = blend(estimate, current, 1 / averaged) if averaged else current
        record.products += batch_examples
        record.bar.update()
        if iteration in looks:
            worst = record.add(iteration, estimate, system.residual(estimate))
            record.products += len(encoded)
            if not worst <= 1e3 * record.worst:
                raise _diverged(step, batch_examples)
            if worst <= tolerance:
                break
    return record.close(estimate, step)


def step_size(system: System, *, batch_examples: int, seed: int = 0, powers: int = 5) -> float:
    """Return 1 over the largest eigenvalue of P⁻¹(G_B + Λ_λ), by power iteration on one minibatch.

    Each target's gradient starts one iteration; the quotient of M P⁻¹ M by M, M the minibatch's matrix,
    approaches the eigenvalue from below.
    """
    rows = next(minibatches(system.matrix.encoded, batch_examples, seed))
    vector, largest = system.start, 0.0
    for _ in range(powers):
        image = system.product(vector, rows)
        turned = system.preconditioned(image)
        largest = max(largest, float(_ratio(dot(image, turned), dot(vector, image)).max()))
        vector = add(turned, turned, 1 / norm(turned) - 1)
    return 1 / largest


def minibatches(encoded: Sequence[Encoded], size: int, seed: int) -> Iterator[list[int]]:
    """Yield rows of minibatches without end: pass after pass, each in an order of its own."""
    by_id = sorted(range(len(encoded)), key=lambda row: encoded[row].id)
    generator = np.random.default_rng(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += [by_id[k] for k in generator.permutation(len(by_id))]
        yield waiting[:size]
        waiting = waiting[size:]


# --- Arithmetic on stacks ----------------------------------------------------------------


def dot(first: Stacked, second: Stacked) -> np.ndarray:
    """Return the inner product of each pair of directions in two stacks, shape [directions]."""
    parts = [(first[n].double() * second[n].double()).sum((1, 2)) for n in first]
    return torch.stack(parts).sum(0).cpu().numpy()


def norm(stacked: Stacked) -> np.ndarray:
    """Return the norm of each direction of a stack, shape [directions]."""
    return np.sqrt(dot(stacked, stacked))


def add(first: Stacked, second: Stacked, factor: np.ndarray) -> Stacked:
    """Return first + factor × second, one factor per direction."""
    return {
        n: part + torch.from_numpy(factor).to(part)[:, None, None] * second[n] for n, part in first.items()
    }


def blend(first: Stacked, second: Stacked, share: float) -> Stacked:
    """Return (1 − share) × first + share × second."""
    return {n: torch.lerp(part, second[n], share) for n, part in first.items()}


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """Divide, with 0 where a target that is already solved leaves nothing to divide."""
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


def _diverged(step: float, batch_examples: int) -> NumericalError:
    return NumericalError(
        f"the refinement diverges with step {step:g} and {batch_examples} examples a minibatch; "
        "take a smaller step or larger minibatches"
    )


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ParameterError(name, value, "a finite number above 0")
