"""``infra attribute --refine N``: EK-FAC directions refined towards the whole Gauss–Newton matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from infra_lib.attribute.inputs import Inputs
from infra_lib.attribute.options import Options
from infra_lib.curvature import Factors
from infra_lib.influence import Direction
from infra_lib.refine import Refined, System, conjugate_gradients, refine


def refine_directions(
    options: Options,
    model: Any,
    inputs: Inputs,
    factors: Factors,
    gradients: Mapping[str, Direction],
    *,
    pad_id: int,
    progress: bool,
) -> Refined:
    """Return refined directions: ``options.refine`` iterations on top of EK-FAC.

    With ``options.refine_batch`` above 0 each iteration takes a minibatch of so many examples (ASTRA);
    with 0 it takes the whole training set (conjugate gradients).
    """
    system = System(
        model,
        inputs.encoded,
        factors,
        gradients,
        damping=options.damping,
        pad_id=pad_id,
        batch_tokens=options.batch_tokens,
    )
    if options.refine_batch == 0:
        return conjugate_gradients(system, iterations=options.refine, progress=progress)
    return refine(
        system,
        iterations=options.refine,
        batch_examples=options.refine_batch,
        seed=options.seed,
        progress=progress,
    )


def refinement_record(
    refined: Refined, unrefined: Mapping[str, np.ndarray], totals: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return what provenance says of a refinement: residuals, and agreement with the unrefined scores.

    Parameters
    ----------
    unrefined, totals
        Target name to example scores by EK-FAC alone and by the refined directions.
    """
    return {
        "solver": "conjugate gradients" if refined.step is None else "stochastic Neumann iterations",
        "step": refined.step,
        "ekfac_scale": refined.scale,
        "relative_residual": refined.residuals("natural"),
        "spearman_with_ekfac": {
            target: float(spearmanr(unrefined[target], values).statistic) if len(values) > 1 else None
            for target, values in totals.items()
        },
        "record": refined.record.to_dict("records"),
    }
