r"""The sums behind the factors, as pure functions of rows of activations and gradients.

Costs, in multiply-adds, for T rows of an example in a layer [out, in]:

==================================  ==================================================
outer products, one triangle        T · d · (d + strip) / 2, for A (d = in) and G (d = out)
rotate rows, then multiply          T · (in² + out²) + T · in · out
multiply, then rotate the product   T · in · out + in · out · (in + out)
==================================  ==================================================

So a side is rotated as rows where an example has fewer rows than the *other* side has
columns, and as a product otherwise; both give the same Λ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infra_lib.device import to_device
from infra_lib.models import Batch

STRIP, STRIP_CUDA = 256, 1024
"""Rows of a strip of the triangle: narrow enough to save work, wide enough for fast products."""


@dataclass(frozen=True)
class Positions:
    """Where a batch's rows stand among its padded positions, counted row by row.

    Attributes
    ----------
    real
        Positions that are no padding [n].
    predicting
        Positions that carry a loss term [m].
    counts
        Real positions of each example; they follow one another in ``real``.
    total
        Padded positions.
    """

    real: Tensor
    predicting: Tensor
    counts: tuple[int, ...]
    total: int

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> Positions:
        """Return the positions of a batch."""
        mask = batch.attention_mask.bool().cpu()
        real = to_device(mask.flatten().nonzero().squeeze(1), device)
        return cls(real, to_device(batch.predicting, device), tuple(mask.sum(1).tolist()), mask.numel())

    def rows(self, values: Tensor, index: Tensor) -> Tensor:
        """Return rows [n, width] of values [..., width], in single precision."""
        flat = values.reshape(-1, values.shape[-1])
        return (flat if len(index) == self.total else flat.index_select(0, index)).float()


def add_outer(total: Tensor, rows_nd: Tensor) -> None:
    """Add rows' outer products to the upper triangle of ``total`` [d, d] (strips of it, to be exact)."""
    width = rows_nd.shape[1]
    strip = STRIP_CUDA if rows_nd.is_cuda else STRIP
    for start in range(0, width, strip):
        stop = min(start + strip, width)
        total[start:stop, start:].addmm_(rows_nd[:, start:stop].T, rows_nd[:, start:])


def mirror(total: Tensor) -> Tensor:
    """Copy the upper triangle of a matrix below its diagonal, in place."""
    for start in range(0, len(total), STRIP):
        stop = min(start + STRIP, len(total))
        block = total[start:stop, start:stop].triu()
        total[start:stop, start:stop] = block + block.triu(1).T
        total[stop:, start:stop] = total[start:stop, stop:].T
    return total


def add_squares(
    total: Tensor,
    grads_no: Tensor,
    acts_ni: Tensor,
    counts: Sequence[int],
    q_out: Tensor | None = None,
    q_in: Tensor | None = None,
) -> None:
    """Add to ``total`` [out, in] the squares of each example's Q_Gᵀ (Σ_t δ_t a_tᵀ) Q_A.

    Parameters
    ----------
    counts
        Rows of each example.
    q_out, q_in
        Rotations still to be applied to the product; None where the rows are rotated already.
    """
    product = torch.empty_like(total)
    for grads, acts in zip(grads_no.split(list(counts)), acts_ni.split(list(counts)), strict=True):
        grad = torch.mm(grads.T, acts, out=product)
        if q_out is not None:
            grad = q_out.T @ grad
        if q_in is not None:
            grad = grad @ q_in
        total.addcmul_(grad, grad)
