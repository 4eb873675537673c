r"""Curvature of the loss: eigenvalue-corrected Kronecker factors (EK-FAC) of linear layers.

For a linear layer with weight W [out, in], inputs a_t [in] and gradients
δ_t = ∂(Σ loss)/∂(output_t) [out], the Gauss–Newton matrix (for log-likelihood losses the
Fisher) is approximated in the eigenbasis of two small matrices:

==========  ============  =============================================================
symbol      shape         what
==========  ============  =============================================================
A           [in, in]      mean of a_t a_tᵀ over loss-carrying positions, = Q_A S_A Q_Aᵀ
G           [out, out]    mean of δ_t δ_tᵀ over the same positions, = Q_G S_G Q_Gᵀ
Λ           [out, in]     mean over examples of (Q_Gᵀ g_i Q_A)², g_i the example's gradient
==========  ============  =============================================================

Labels are *sampled from the model* by default, which makes this the true Fisher and not
the empirical one. The family has simpler members: ``kfac`` replaces Λ by the outer
product of eigenvalues S_G S_Aᵀ (times the mean number of positions per example),
``diagonal`` uses the mean squared gradient in the weights' own basis, and ``identity``
no curvature at all.

Source: George et al. 2018 (arXiv 1806.03884); Grosse et al. 2023 (arXiv 2308.03296), section 2.2.
"""

from infra_lib.curvature.eigen import eigenbasis
from infra_lib.curvature.factors import METHODS, Factors, LayerFactors
from infra_lib.curvature.fit import construction_bytes, fit_factors, layer_groups, partitions
from infra_lib.curvature.labels import LABELS
from infra_lib.curvature.layers import (
    captured,
    check_met,
    model_fingerprint,
    out_by_in,
    watched,
    weight_shape,
)

__all__ = [
    "LABELS",
    "METHODS",
    "Factors",
    "LayerFactors",
    "captured",
    "check_met",
    "construction_bytes",
    "eigenbasis",
    "fit_factors",
    "layer_groups",
    "model_fingerprint",
    "out_by_in",
    "partitions",
    "watched",
    "weight_shape",
]
