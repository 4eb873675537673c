"""Eigendecompositions of covariances, with their quality measured and not assumed."""

from __future__ import annotations

import torch
from torch import Tensor

from infra_lib.errors import NumericalError

ORTHOGONALITY, RESIDUAL = 1e-4, 1e-5
"""Largest entry of QᵀQ − I and relative residual of Q S Qᵀ that single precision may leave."""


def eigenbasis(
    matrix: Tensor, name: str, *, precision: str = "auto"
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return eigenvalues, eigenvectors (columns) and the quality of a symmetric matrix's decomposition.

    Covariances are sums in single precision, so that a decomposition in single precision loses nothing
    that they hold: Λ is measured in whatever orthogonal basis comes out. Its quality is checked, and
    where it is not good enough the matrix is decomposed again in double precision on the CPU.

    Parameters
    ----------
    precision
        ``auto``, or ``double`` to go there at once.

    Raises
    ------
    NumericalError
        Where the matrix or its decomposition is not finite, or the vectors are not orthogonal to 1e-3.
    """
    if not torch.isfinite(matrix).all():
        raise NumericalError(f"covariance {name} is not finite")
    found = None if precision == "double" else _decomposed(matrix.float())
    if found is None or found[2]["orthogonality"] > ORTHOGONALITY or found[2]["residual"] > RESIDUAL:
        found = _decomposed(matrix.double().cpu())
    if found is None:
        raise NumericalError(f"the eigendecomposition of {name} is not finite")
    values, vectors, checks = found
    if checks["orthogonality"] > 1e-3:
        raise NumericalError(
            f"the eigenvectors of {name} are not orthogonal (off by {checks['orthogonality']:.1e})"
        )
    # LAPACK returns columns one after the other; rows are what files hold.
    kept = vectors.float().contiguous().to(matrix.device)
    return values.clamp(min=0).float().to(matrix.device), kept, checks


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, dict[str, float]] | None:
    """Return eigenvalues, eigenvectors and their quality, or None where there are none."""
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:
        return None
    if not (torch.isfinite(values).all() and torch.isfinite(vectors).all()):
        return None
    gram = vectors.T @ vectors
    gram.diagonal().sub_(1)
    orthogonality = float(gram.abs().max())
    size = matrix.norm().clamp(min=torch.finfo(matrix.dtype).tiny)
    rest = torch.matmul(vectors * values, vectors.T, out=gram).sub_(matrix)
    checks = {"orthogonality": orthogonality, "residual": float(rest.norm() / size)}
    return values, vectors, checks
