"""What a model says about a batch's response tokens: log-probabilities, and gradients through its head.

The output head is the dearest layer over a large vocabulary, and only the positions that predict a
response token need it. From its inputs on, positions do not mix: one backward pass through it serves
every position, a slice at a time, and any number of directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from infra_lib.models import Batch, Encoded, batches

HELD_LOGITS = 2**21
"""Logits that are held at a time where the head is met in slices, on the CPU."""
HELD_LOGITS_CUDA = 2**26
"""The same on a GPU, whose kernels need more work each."""


def held_logits(device: torch.device) -> int:
    """Return how many logits are held at a time on a device."""
    return HELD_LOGITS_CUDA if device.type == "cuda" else HELD_LOGITS


def response_logits(model: Any, batch: Batch) -> Tensor:
    """Return the logits that predict the response's tokens [loss terms, vocabulary], in reading order.

    The output head is given these positions alone: over a large vocabulary it is the dearest layer.
    """
    where = batch.predicting
    head = model.get_output_embeddings()

    def select(_m: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, -2).index_select(0, where).unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        return model(**batch.inputs, use_cache=False).logits.squeeze(0)
    finally:
        handle.remove()


def response_states(model: Any, batch: Batch) -> Tensor:
    """Return what the output head would be given at these positions [loss terms, hidden], and stop there."""
    where = batch.predicting
    kept: list[Tensor] = []

    def stop(_m: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept.append(inputs[0].flatten(0, -2).index_select(0, where))
        return (kept[0][:0].unsqueeze(0), *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(stop)
    try:
        model(**batch.inputs, use_cache=False)
    finally:
        handle.remove()
    return kept[0]


@torch.no_grad()
def has_plain_head(model: Any, example: Encoded) -> bool:
    """Return whether logits are the output head's values and nothing else (no soft cap, no scale).

    The head is given an example's states times a hundred: what bends large values shows.
    """
    head = model.get_output_embeddings()
    batch = batches([example], batch_tokens=1, pad_id=0)[0].to(model.device)
    kept: list[Tensor] = []

    def enlarge(_m: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept.append(100 * inputs[0])
        return (kept[0], *inputs[1:])

    handle = head.register_forward_pre_hook(enlarge)
    try:
        logits = model(**batch.inputs, use_cache=False).logits
    finally:
        handle.remove()
    plain = head(kept[0])
    return plain.shape == logits.shape and torch.allclose(plain, logits, rtol=1e-4)


def pull_through_head(model: Any, states: Tensor, gradient: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Return a gradient at the head's inputs [loss terms, hidden] from one at its outputs.

    From the states on positions do not mix, so that a slice of them at a time will do, and no more
    logits are held than that.

    Parameters
    ----------
    states
        Of :func:`response_states`.
    gradient
        Given logits of some loss terms and the slice that these are, the gradient at the logits.
    """
    head = model.get_output_embeddings()
    step = max(1, held_logits(states.device) // head.weight.shape[0])
    pulled: list[Tensor] = []
    for start in range(0, len(states), step):
        where = slice(start, start + step)
        with torch.enable_grad():
            leaf = states[where].detach().requires_grad_(True)
            logits = head(leaf)
        pulled += torch.autograd.grad(logits, leaf, gradient(logits.detach(), where))
    return torch.cat(pulled)


def log_prob_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Return e_y − p, the derivative of log p_y by the logits [terms, vocabulary]."""
    probs = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1).neg_()
    probs[torch.arange(len(labels), device=probs.device), labels] += 1
    return probs.to(logits.dtype)


def response_log_probs(model: Any, batch: Batch) -> Tensor:
    """Return log p(token | tokens before) of the response's tokens [loss terms], in reading order."""
    logits = response_logits(model, batch)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = logits.gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def token_log_probs(model: Any, batch: Batch) -> Tensor:
    """Return log p(token t | tokens before) [batch, tokens], 0 where ``loss_mask`` is False."""
    return spread_out(batch, response_log_probs(model, batch))


def spread_out(batch: Batch, values: Tensor) -> Tensor:
    """Return values of the loss terms [loss terms] at their tokens [batch, tokens], 0 elsewhere."""
    spread = torch.zeros(batch.loss_mask.numel(), dtype=values.dtype, device=values.device)
    return spread.index_copy(0, batch.predicting + 1, values).view(batch.loss_mask.shape)
