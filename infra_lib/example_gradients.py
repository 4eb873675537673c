"""Each example's own gradient, formed outright: for models small enough that a batch of them fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from infra_lib.curvature import captured
from infra_lib.models import Batch
from infra_lib.responses import token_log_probs


def example_gradients(
    model: Any,
    modules: Mapping[str, nn.Module],
    batch: Batch,
    output: Callable[[Any, Batch], Tensor] = token_log_probs,
) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's gradients of the examples of a batch [rows, out, in], in single precision.

    Parameters
    ----------
    output
        What is differentiated, given the model and the batch: a tensor whose first dimension is the
        examples', and whose sum over the others is an example's own. Log-likelihoods, if not said.
    """
    with captured(model, modules) as seen:
        output(model, batch).sum().backward()
    real = batch.attention_mask.unsqueeze(-1)
    for name, (acts_bti, grads_bto) in seen.items():
        yield name, torch.einsum("bto,bti->boi", grads_bto.float() * real, acts_bti.float())
