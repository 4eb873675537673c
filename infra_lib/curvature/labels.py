"""The labels behind the factors: sampled from the model (true Fisher) or the data's own (empirical)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra_lib.attention import fused_attention
from infra_lib.device import to_device
from infra_lib.models import Batch, Encoded
from infra_lib.responses import held_logits, pull_through_head, response_logits, response_states

LABELS = ("sampled", "empirical")

SAMPLED_PARTS = 4
"""Parts of the held logits from which labels are drawn one after the other."""


class LabelSource:
    """The labels behind the factors: sampled from the model, or the data's own."""

    def __init__(self, kind: str, seed: int, encoded: Sequence[Encoded], *, plain_head: bool = False) -> None:
        self._kind, self._seed, self._encoded, self._plain = kind, seed, encoded, plain_head

    def backward(self, model: Any, batch: Batch) -> None:
        """Run forward and backward of the batch's summed loss under these labels.

        The derivative of −log p_y by the logits is p − e_y: the probabilities that labels are drawn from
        are the gradient as well, but for the labels' own entries. Where logits are the head's values as
        they are, the head is met a slice of positions at a time, and no more logits are held than that.
        """
        batch = batch.to(model.device)
        own = batch.labels
        drawn = torch.from_numpy(np.concatenate([self._uniform(row) for row in batch.rows]))
        uniform = to_device(drawn, own.device)
        if not self._plain:
            with fused_attention(model, batch):
                logits = response_logits(model, batch)
            logits.backward(self._gradient(logits, own, uniform))
            return
        with fused_attention(model, batch):
            states = response_states(model, batch)
        states.backward(
            pull_through_head(
                model,
                states,
                lambda logits, where: self._gradient(logits, own[where], uniform[where]),
            )
        )

    @torch.no_grad()
    def _gradient(self, logits: Tensor, labels: Tensor, uniform: Tensor) -> Tensor:
        """Return the loss's derivative by logits [loss terms, vocabulary], under own or drawn labels."""
        probs = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
        if self._kind == "sampled":
            labels = self._sample(probs, uniform)
        probs[torch.arange(len(labels), device=probs.device), labels] -= 1
        return probs.to(logits.dtype)

    @staticmethod
    def _sample(probs: Tensor, uniform: Tensor) -> Tensor:
        """Return labels [loss terms] drawn from probabilities [loss terms, vocabulary].

        Each is the inverse of the cumulative distribution at a uniform number [loss terms] from its
        example's own stream, so that it depends on neither the batch nor the order.
        """
        # Sums in double precision, and what they are sums of: held for a part of the logits at a time.
        step = max(1, held_logits(probs.device) // (SAMPLED_PARTS * probs.shape[-1]))
        drawn = []
        for part, wanted in zip(probs.split(step), uniform.split(step), strict=True):
            cumulative = part.cumsum(-1, dtype=torch.float64)
            drawn.append(torch.searchsorted(cumulative, wanted.unsqueeze(-1) * cumulative[:, -1:]))
        return torch.cat(drawn).squeeze(-1).clamp(max=probs.shape[-1] - 1)

    def _uniform(self, row: int) -> np.ndarray:
        """Return one uniform number per loss term of an example, from its own stream."""
        example = self._encoded[row]
        digest = hashlib.sha256(f"{self._seed}/{example.id}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big")).random(int(example.loss_mask.sum()))
