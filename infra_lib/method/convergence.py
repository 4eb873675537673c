"""How refinement went: records of several solvers and dampings as tables and words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from infra_lib.frames import rows as each_row
from infra_lib.refine import Refined
from infra_lib.style import name_of
from infra_lib.tables import NOT_AVAILABLE, html_table, named

SCORED_AS = {"conjugate gradients": "refined", "minibatches": "refined_minibatches"}
"""Solvers, and what scores along their directions are called as a method."""


def by_method(results: Mapping[tuple[str, float], Refined]) -> dict[str, dict[float, Any]]:
    """Return the directions of several refinements by method (:data:`SCORED_AS`), damping and target."""
    found: dict[str, dict[float, Any]] = {}
    for (solver, damping), result in results.items():
        found.setdefault(SCORED_AS[solver], {})[damping] = result.directions
    return found


def convergence_table(
    results: Mapping[tuple[str, float], Refined], examples: int, batch: int
) -> pd.DataFrame:
    """Return the records of several refinements against passes over the examples.

    Parameters
    ----------
    results
        (solver's name, damping) to its result.
    examples, batch
        Training examples, and examples of a minibatch of the stochastic solver.

    Returns
    -------
    pandas.DataFrame
        solver, damping, target, iteration, passes (of its iterations, without the start's and the
        checks' products), residual, natural, gain (as :class:`infra_lib.refine.Refined` has them).
    """
    parts = []
    for (solver, damping), result in results.items():
        size = examples if result.step is None else min(batch, examples)
        passes = result.record["iteration"] * size / examples
        parts.append(result.record.assign(solver=solver, damping=damping, passes=passes))
    columns = ["solver", "damping", "target", "iteration", "passes", "residual", "natural", "gain"]
    return pd.concat(parts, ignore_index=True)[columns]


def refinement_table(results: Mapping[tuple[str, float], Refined], scores: pd.DataFrame) -> pd.DataFrame:
    """Return, per solver, damping and target, where EK-FAC stood and where refinement came.

    Parameters
    ----------
    scores
        As :func:`infra_lib.method.sweeps.sweep` gives it, with directions of :func:`by_method`.

    Returns
    -------
    pandas.DataFrame
        damping, target, solver, scale (the factor by which EK-FAC's direction fits best), and natural
        relative residuals: ekfac (as it is), rescaled, refined; spearman of EK-FAC's and the refined
        scores (missing for what was not scored).
    """
    agreement: dict[tuple[Any, ...], Any] = {}
    for key, part in scores.groupby(["damping", "target"]):
        ranks = part.pivot(index="id", columns="method", values="score").rank().corr()
        agreement |= {(*key, method): ranks["ekfac"].get(method) for method in SCORED_AS.values()}
    rows = [
        {
            "damping": damping,
            "target": target,
            "solver": solver,
            "scale": result.scale[target],
            "ekfac": values["ekfac"],
            "rescaled": values["ekfac_rescaled"],
            "refined": values["refined"],
            "spearman": agreement.get((damping, target, SCORED_AS[solver])),
        }
        for (solver, damping), result in results.items()
        for target, values in result.residuals("natural").items()
    ]
    return pd.DataFrame(rows).sort_values(["damping", "target", "solver"], ignore_index=True)


def refinement_markdown(table: pd.DataFrame) -> str:
    """Return the table of :func:`refinement_table` for the page."""
    rows = [
        [
            f"{r.damping:g}",
            f"on {named(r.target)}",
            r.solver,
            f"{r.scale:.3g}",
            f"{r.ekfac:.3g}",
            f"{r.rescaled:.3g}",
            f"{r.refined:.3g}",
            NOT_AVAILABLE if pd.isna(r.spearman) else f"{r.spearman:.2f}",
        ]
        for r in each_row(table)
    ]
    heads = ["damping", "target", "solver", "scale", "EK-FAC", "rescaled", "refined", "Spearman"]
    return html_table(heads, rows, left=3, label="Refinement", stacked=True)


def residual_words(table: pd.DataFrame, damping: float) -> str:
    """Return the residuals of the refined directions at a damping in words."""
    own = table[table["damping"] == damping]
    return "; ".join(f"{r.solver}, {name_of(r.target)}: {r.refined:.2g}" for r in each_row(own))


def convergence_words(curves: pd.DataFrame) -> str:
    """Return the last natural residual of each solver, damping and target in words."""
    parts = []
    for (solver, damping, target), rows in curves.groupby(["solver", "damping", "target"], sort=False):
        last = rows.sort_values("passes").iloc[-1]
        parts.append(
            f"{solver}, damping {damping:g}, {target}: {last.natural:.2g} after {last.passes:.3g} passes"
        )
    return "; ".join(parts)
