r"""Scores relative to an example's length or to its influence on itself.

Long examples have large gradients, and examples that a model has not fitted have larger ones; both
then crowd the ends of a ranking. With s_t the scores of an example's tokens, n their number and
g = Σ_t g_t the example's gradient:

===============  =========================  =============================  ============================
normalisation    example                    sentence j                     token
===============  =========================  =============================  ============================
``none``         Σ_t s_t                    Σ_{t in j} s_t                 s_t
``length``       Σ_t s_t / n                Σ_{t in j} s_t / n_j           s_t
``sqrt_length``  Σ_t s_t / √n               Σ_{t in j} s_t / √n_j          s_t
``self``         Σ_t s_t / √(gᵀ(H+λ)⁻¹g)    Σ_{t in j} s_t / √(gᵀ(H+λ)⁻¹g)  s_t / √(gᵀ(H+λ)⁻¹g)
===============  =========================  =============================  ============================

So an example's score is the sum of its parts for ``none`` and ``self`` (one divisor for all of an
example), and not for the two lengths. ``self`` is the ℓ-relative influence of Barshan et al. (2020,
arXiv 2003.11630): the largest effect on the target per unit of effect on the example itself. With
``graddot``, H + λ is the identity, and ``self`` is the cosine times the norm of the target's gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SUMS_HOLD = ("none", "self")
"""Normalisations under which an example's score is the sum of its sentences' and of its tokens'."""

_POWERS = {"none": 0.0, "length": 1.0, "sqrt_length": 0.5, "self": 0.0}


def by_length(sums: np.ndarray, counts: Sequence[int] | np.ndarray, normalise: str) -> np.ndarray:
    """Return sums over tokens divided by the power of their numbers that a normalisation asks for.

    Parameters
    ----------
    sums, counts
        Sum of scores and number of tokens of each example or sentence; one without tokens keeps its 0.
    """
    return sums / np.maximum(np.asarray(counts, dtype=np.float64), 1) ** _POWERS[normalise]


def by_root(rows: Sequence[np.ndarray], squared: np.ndarray) -> list[np.ndarray]:
    """Return each example's token scores divided by the root of its own number in ``squared`` [examples].

    An example without gradient has the score 0 and keeps it.
    """
    return [row / np.sqrt(own) if own > 0 else row * 0 for row, own in zip(rows, squared, strict=True)]
