"""How refinement went: records of several solvers and dampings as tables and words."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from infra_lib.refine import Refined


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
        As :func:`infra_lib.method.sweeps.sweep` gives it, with the refined directions of the first
        solver at each damping.

    Returns
    -------
    pandas.DataFrame
        damping, target, solver, scale (the factor by which EK-FAC's direction fits best), and natural
        relative residuals: ekfac (as it is), rescaled, refined; spearman of EK-FAC's and the refined
        scores (missing for solvers that were not scored).
    """
    agreement = {
        key: part.pivot(index="id", columns="method", values="score").rank().corr().loc["ekfac", "refined"]
        for key, part in scores[scores["method"].isin(["ekfac", "refined"])].groupby(["damping", "target"])
        if part["method"].nunique() == 2
    }
    first = next(iter(results))[0]
    rows = [
        {
            "damping": damping,
            "target": target,
            "solver": solver,
            "scale": result.scale[target],
            "ekfac": values["ekfac"],
            "rescaled": values["ekfac_rescaled"],
            "refined": values["refined"],
            "spearman": agreement.get((damping, target)) if solver == first else None,
        }
        for (solver, damping), result in results.items()
        for target, values in result.residuals("natural").items()
    ]
    return pd.DataFrame(rows).sort_values(["damping", "target", "solver"], ignore_index=True)


def convergence_words(curves: pd.DataFrame) -> str:
    """Return the last natural residual of each solver, damping and target in words."""
    parts = []
    for (solver, damping, target), rows in curves.groupby(["solver", "damping", "target"], sort=False):
        last = rows.sort_values("passes").iloc[-1]
        parts.append(
            f"{solver}, damping {damping:g}, {target}: {last.natural:.2g} after {last.passes:.3g} passes"
        )
    return "; ".join(parts)
