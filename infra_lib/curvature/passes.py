"""What is contracted while a batch goes forward and backward: covariances first, then second moments.

Both passes see the same rows. As many of them as fit a given room are kept from the first
pass for the second, which then runs the model only for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infra_lib.curvature.layers import SharedInput, weight_shape
from infra_lib.curvature.moments import Positions, add_outer, add_squares

Rows = dict[str, Tensor]
"""Of one batch: ``layer|in`` (of layers with an input of their own) and ``layer|out`` to rows [n, width]."""


class KeptRows:
    """Rows of whole batches, kept as far as ``room`` bytes go."""

    def __init__(self, room: int, modules: Mapping[str, nn.Module]) -> None:
        self._room = room
        # An upper bound: layers that share an input share its rows.
        self._bytes_per_row = 4 * sum(sum(weight_shape(module)) for module in modules.values())
        self._batches: dict[int, Rows] = {}

    def open(self, number: int, rows: int) -> Rows | None:
        """Return where a batch's rows are to be put, or None where there is no room for them."""
        held = sum(part.numel() * 4 for kept in self._batches.values() for part in kept.values())
        if held + rows * self._bytes_per_row > self._room:
            return None
        return self._batches.setdefault(number, {})

    def take(self, number: int) -> Rows | None:
        """Return a batch's rows and keep them no longer, or None where they were not kept."""
        return self._batches.pop(number, None)


class CovariancePass:
    """Adds a batch's inputs and output gradients to the sums behind A and G.

    Parameters
    ----------
    sums
        ``layer|in`` and ``layer|out`` to sums of outer products, upper triangle.
    shared
        Filled with the layer whose input, and A, each layer shares.
    where
        The batch's positions.
    kept
        Where the rows of all real positions are to be kept; None if they are not.
    """

    def __init__(
        self, sums: dict[str, Tensor], shared: dict[str, str], where: Positions, kept: Rows | None
    ) -> None:
        self._sums, self._shared, self._where, self._kept = sums, shared, where, kept
        self._inputs = SharedInput()

    def on_input(self, name: str, acts: Tensor) -> None:
        """Take a layer's input [..., in]."""
        self._shared[name] = self._inputs.owner(name, acts)
        if self._shared[name] == name:
            self._add(f"{name}|in", acts)

    def on_gradient(self, name: str, grads: Tensor) -> None:
        """Take the gradient at a layer's output [..., out]."""
        self._add(f"{name}|out", grads)

    def _add(self, key: str, values: Tensor) -> None:
        rows = self._where.rows(values, self._where.predicting)
        if key not in self._sums:
            width = rows.shape[1]
            self._sums[key] = torch.zeros(width, width, dtype=torch.float32, device=rows.device)
        add_outer(self._sums[key], rows)
        if self._kept is not None:
            self._kept[key] = self._where.rows(values, self._where.real)


@dataclass(frozen=True)
class _Rows:
    plain: Tensor | None
    rows: Tensor
    rotated: bool


@dataclass
class _Input:
    """A layer's input: the model's own tensor, until a gradient comes to be multiplied with its rows."""

    owner: str
    acts: Tensor | _Rows


class MomentPass:
    """Adds a batch's squared per-example gradients, in the eigenbasis and in the weights' own basis.

    Parameters
    ----------
    corrected, plain
        Layer to sums [out, in]; ``plain`` may be empty.
    rotations
        Layer to (Q_A, Q_G).
    where
        The batch's positions.
    """

    def __init__(
        self,
        corrected: Mapping[str, Tensor],
        plain: Mapping[str, Tensor],
        rotations: Mapping[str, tuple[Tensor, Tensor]],
        where: Positions,
    ) -> None:
        self._corrected, self._plain, self._rotations, self._where = corrected, plain, rotations, where
        self._mean_rows = len(where.real) / max(1, len(where.counts))
        self._shared = SharedInput()
        self._last: _Input | None = None
        self._waiting: dict[str, _Input] = {}

    def on_input(self, name: str, acts: Tensor) -> None:
        """Take a layer's input [..., in]."""
        if self._shared.owner(name, acts) == name or self._last is None:
            self._last = _Input(name, acts)
        self._waiting[name] = self._last

    def on_gradient(self, name: str, grads: Tensor) -> None:
        """Take the gradient at a layer's output [..., out]."""
        self._contract(name, self._where.rows(grads, self._where.real))

    def replay(self, kept: Rows, shared: Mapping[str, str]) -> None:
        """Take rows that were kept instead of a pass through the model; they are let go layer by layer.

        Parameters
        ----------
        shared
            Layer to the layer whose input it shares.
        """
        for owner in dict.fromkeys(shared.values()):
            acts = _Input(owner, self._prepared(owner, kept.pop(f"{owner}|in")))
            for name in (name for name, other in shared.items() if other == owner):
                self._waiting[name] = acts
                self._contract(name, kept.pop(f"{name}|out"))

    def _prepared(self, name: str, rows: Tensor) -> _Rows:
        plain = rows if self._plain else None
        if rotated := self._mean_rows <= self._corrected[name].shape[0]:
            rows = rows @ self._rotations[name][0]
        return _Rows(plain, rows, rotated)

    def _contract(self, name: str, grads: Tensor) -> None:
        waiting = self._waiting.pop(name)
        if isinstance(waiting.acts, Tensor):
            # Once for all layers that share the input.
            rows = self._where.rows(waiting.acts, self._where.real)
            waiting.acts = self._prepared(waiting.owner, rows)
        acts = waiting.acts
        q_in, q_out = self._rotations[name]
        counts = self._where.counts
        if acts.plain is not None:
            add_squares(self._plain[name], grads, acts.plain, counts)
        if rotated := self._mean_rows <= self._corrected[name].shape[1]:
            grads = grads @ q_out
        add_squares(
            self._corrected[name],
            grads,
            acts.rows,
            counts,
            None if rotated else q_out,
            None if acts.rotated else q_in,
        )
