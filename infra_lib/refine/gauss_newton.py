"""Products with the Gauss–Newton matrix of the training loss, by forward over reverse mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from infra_lib.device import first_not_finite
from infra_lib.errors import ModelError, NumericalError, ParameterError
from infra_lib.models import Batch, Encoded, batches
from infra_lib.refine.stacks import Stacked


@dataclass(frozen=True)
class GaussNewton:
    """The Gauss–Newton matrix of the mean over examples of the summed loss, as a linear map.

    Attributes
    ----------
    model
        Loaded with eager attention, which forward-mode differentiation supports.
    names
        Linear layers whose weights the matrix is by; all other weights are held fixed.
    encoded
        Training examples; only their loss-carrying positions count. Labels do not matter.
    pad_id, batch_tokens
        Padding token, and padded tokens per pass; results do not depend on them.

    Raises
    ------
    ParameterError
        For no examples.
    ModelError
        For a layer that the model does not have.
    """

    model: Any
    names: tuple[str, ...]
    encoded: Sequence[Encoded]
    pad_id: int = 0
    batch_tokens: int = 4096
    _transposed: Mapping[str, bool] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.encoded:
            raise ParameterError("train", 0, "at least one training example")
        modules = dict(self.model.named_modules())
        if missing := [name for name in self.names if name not in modules]:
            raise ModelError(f"{type(self.model).__name__} has no layer {missing[0]}")
        # GPT-2's Conv1D stores its weight as [in, out].
        object.__setattr__(self, "_transposed", {n: isinstance(modules[n], Conv1D) for n in self.names})

    def product(self, stacked: Mapping[str, Tensor], rows: Sequence[int] | None = None) -> Stacked:
        """Return G V for a stack of directions, [directions, out, in] per layer.

        Parameters
        ----------
        rows
            Indices of the examples over which the mean is taken; None takes all. Examples named twice
            count twice.

        Raises
        ------
        NumericalError
            For a product that is not finite.
        """
        chosen = self.encoded if rows is None else [self.encoded[row] for row in rows]
        modules = dict(self.model.named_modules())
        weights = {f"{name}.weight": modules[name].weight.detach() for name in self.names}
        tangents = {
            f"{name}.weight": self._stored(name, stacked[name]).to(modules[name].weight)
            for name in self.names
        }
        totals = {name: torch.zeros_like(stacked[name]) for name in self.names}
        for batch in batches(chosen, batch_tokens=self.batch_tokens, pad_id=self.pad_id):
            batch = batch.to(self.model.device)
            pulled = batch_product(self.model, weights, tangents, batch, batch.predicting)
            for name, total in totals.items():
                total += self._stored(name, pulled[f"{name}.weight"]).to(total) / len(chosen)
        if bad := first_not_finite(totals):
            raise NumericalError(f"the Gauss–Newton product of layer {bad} is not finite")
        return totals

    def _stored(self, name: str, stacked: Tensor) -> Tensor:
        """Turn [out, in] into the order in which the layer stores its weight, or back."""
        return stacked.mT if self._transposed[name] else stacked


def batch_product(
    model: Any, weights: dict[str, Tensor], tangents: dict[str, Tensor], batch: Batch, where: Tensor
) -> dict[str, Tensor]:
    """Return the sum over a batch's loss terms of Jᵀ (diag p − p pᵀ) J V, [directions, …] per weight.

    Parameters
    ----------
    where
        Positions [loss terms] in the flattened [batch, tokens] whose logits count.
    """

    def logits(values: dict[str, Tensor]) -> Tensor:
        output = torch.func.functional_call(model, values, (), {**batch.inputs, "use_cache": False}).logits
        kept = output.flatten(0, 1).index_select(0, where)
        return kept.to(torch.promote_types(kept.dtype, torch.float32))

    def forward(tangent: dict[str, Tensor]) -> Tensor:
        return torch.func.jvp(logits, (weights,), (tangent,))[1]

    with torch.no_grad():
        values_nv, pull = torch.func.vjp(logits, weights)[:2]
        moved_dnv = torch.func.vmap(forward)(tangents)
        probabilities = torch.softmax(values_nv, dim=-1)
        weighted = probabilities * moved_dnv
        weighted = weighted - probabilities * weighted.sum(-1, keepdim=True)
        return torch.func.vmap(pull)(weighted)[0]
