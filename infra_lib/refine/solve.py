"""Solvers of the damped Gauss–Newton system: stochastic Neumann iterations and conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from infra_lib.errors import NumericalError, ParameterError
from infra_lib.models import Encoded
from infra_lib.refine.record import Record, Refined
from infra_lib.refine.stacks import add, blend, dot, norm, ratio
from infra_lib.refine.system import System


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
    record = Record(system, iterations, "conjugate gradients", progress)
    solution, residual, search, worst = record.start, record.residual, system.start, record.worst
    inner = dot(system.right, system.start)
    for iteration in range(1, iterations + 1):
        if worst <= tolerance:
            break
        turned = system.preconditioned(residual)
        before, inner = inner, dot(residual, turned)
        search = add(turned, search, ratio(inner, before))
        image = system.product(search)
        record.products += len(system.matrix.encoded)
        length = ratio(inner, dot(search, image))
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
    record = Record(system, iterations, "refining", progress)
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
        largest = max(largest, float(ratio(dot(image, turned), dot(vector, image)).max()))
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


def _diverged(step: float, batch_examples: int) -> NumericalError:
    return NumericalError(
        f"the refinement diverges with step {step:g} and {batch_examples} examples a minibatch; "
        "take a smaller step or larger minibatches"
    )


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ParameterError(name, value, "a finite number above 0")
