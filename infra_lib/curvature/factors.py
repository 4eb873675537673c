"""Factors of layers, and the eigenvalues that each member of the family takes from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from infra_lib.errors import ParameterError

METHODS = ("ekfac", "kfac", "diagonal", "identity")


@dataclass(frozen=True)
class LayerFactors:
    """Factors of one layer.

    Attributes
    ----------
    q_in, q_out
        Eigenvectors Q_A [in, in] and Q_G [out, out], in columns.
    s_in, s_out
        Eigenvalues of A [in] and G [out].
    corrected
        Λ [out, in], in the eigenbasis.
    diagonal
        Mean squared per-example gradient in the weights' own basis [out, in], where it was asked for.
    """

    q_in: Tensor
    q_out: Tensor
    s_in: Tensor
    s_out: Tensor
    corrected: Tensor
    diagonal: Tensor | None = None


@dataclass(frozen=True)
class Factors:
    """Factors of a set of layers, with what they belong to.

    Attributes
    ----------
    layers
        By layer name. Those that stand on disk are mapped into memory when they are asked for, and let
        go with the last reference.
    fingerprint
        Of the weights at which they were fitted.
    examples, positions
        How many they rest on.
    checks
        Per layer: largest deviation of QᵀQ from the identity, and relative residual of the
        reconstruction Q S Qᵀ, each the worse of the two factors.
    """

    layers: Mapping[str, LayerFactors]
    fingerprint: str
    examples: int
    positions: int
    checks: Mapping[str, dict[str, float]] = field(default_factory=dict)

    def eigenvalues(self, name: str, method: str) -> Tensor:
        """Return the curvature's eigenvalues [out, in] of a layer under a method of :data:`METHODS`."""
        layer = self.layers[name]
        if method == "ekfac":
            return layer.corrected
        if method == "kfac":
            return torch.outer(layer.s_out, layer.s_in) * (self.positions / self.examples)
        if method == "diagonal":
            if layer.diagonal is None:
                raise ParameterError("method", method, "one of these factors'; fit them with diagonal=True")
            return layer.diagonal
        if method == "identity":
            return torch.ones_like(layer.corrected)
        raise ParameterError("method", method, f"one of {', '.join(METHODS)}")

    def damped(
        self, name: str, method: str, damping: float, like: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return a layer's eigenvalues + damping × their mean [out, in], and (Q_G [out, out], Q_A [in, in]).

        Both are on the device and of the type of ``like``. Methods that stay in the weights' own basis
        have no eigenvectors.

        Raises
        ------
        ParameterError
            For a method that is not of :data:`METHODS`, or whose eigenvalues were not fitted.
        """
        values = self.eigenvalues(name, method).to(like)
        values = values + damping * values.mean()
        if method in ("diagonal", "identity"):
            return values, None
        layer = self.layers[name]
        return values, (layer.q_out.to(like), layer.q_in.to(like))
