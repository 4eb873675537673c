r"""Second-order refinement: from the EK-FAC direction towards the one of the whole Gauss–Newton matrix.

EK-FAC inverts one block per layer and describes a block by two small matrices. The refined
direction V of a target f solves

    (G + Λ_λ) V = ∇f,        G = 1/N Σ_i Σ_t J_itᵀ (diag p_it − p_it p_itᵀ) J_it,

with J_it the Jacobian of the logits by the chosen weights where example i carries a loss term t,
p_it the model's distribution there, and Λ_λ the same damping that EK-FAC uses (a multiple of each
layer's mean eigenvalue). G keeps what EK-FAC leaves out: how layers, and the directions within a
layer, go together. For a log-likelihood G is the true Fisher matrix of the mean over examples of the
summed loss, so both curvatures have one scale.

==================  ==================  =========================================================
symbol              shape               what
==================  ==================  =========================================================
u = J_it V          [vocabulary]        derivative of the logits along V, in forward mode
w = p∘u − p (pᵀu)   [vocabulary]        that, times the Hessian of the loss by the logits
J_itᵀ w             [out, in] a layer   pulled back to the weights, in reverse mode
==================  ==================  =========================================================

G is never formed: one product costs a forward pass, a forward-mode pass and a backward pass over the
examples (:class:`GaussNewton`). Two solvers share the EK-FAC preconditioner P and start from its
direction P⁻¹∇f, times the one factor per target that solves the system best (it changes no rank):

:func:`refine`
    V ← V + η P⁻¹ (∇f − (G_B + Λ_λ) V), with a fresh minibatch B at each step: the preconditioned
    stochastic Neumann iteration of ASTRA (Wang et al. 2025, arXiv 2507.14740; one step of size 1 from
    zero is EK-FAC). The iterates' tail is averaged, which takes out the minibatches' noise
    (Polyak and Juditsky 1992; Bach and Moulines 2013).
:func:`conjugate_gradients`
    The exact reference where the training set is small: each iteration is a product with all of it.
"""

from infra_lib.refine.gauss_newton import GaussNewton
from infra_lib.refine.record import Refined
from infra_lib.refine.solve import conjugate_gradients, refine, step_size
from infra_lib.refine.stacks import Stacked
from infra_lib.refine.system import System

__all__ = [
    "GaussNewton",
    "Refined",
    "Stacked",
    "System",
    "conjugate_gradients",
    "refine",
    "step_size",
]
