"""The labels behind the factors: sampled from the model (true Fisher) or the data's own (empirical)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra_lib.models import Batch, Encoded, response_logits

LABELS = ("sampled", "empirical")
_SLICE = 2**22
"""Probabilities that are summed up at a time, in double precision."""


class LabelSource:
    """The labels behind the factors: sampled from the model, or the data's own."""

    def __init__(self, kind: str, seed: int, encoded: Sequence[Encoded]) -> None:
        self._kind, self._seed, self._encoded = kind, seed, encoded

    def backward(self, model: Any, batch: Batch) -> None:
        """Run forward and backward of the batch's summed loss under these labels.

        The derivative of −log p_y by the logits is p − e_y: the probabilities that labels are drawn from
        are the gradient as well, but for the labels' own entries.
        """
        batch = batch.to(model.device)
        logits = response_logits(model, batch)
        with torch.no_grad():
            probs = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
            labels = batch.input_ids[batch.loss_mask]
            if self._kind == "sampled":
                labels = self._sample(probs, batch.rows)
            probs[torch.arange(len(labels), device=probs.device), labels] -= 1
        logits.backward(probs.to(logits.dtype))

    def _sample(self, probs: Tensor, rows: Sequence[int]) -> Tensor:
        """Return labels [loss terms] drawn from probabilities [loss terms, vocabulary].

        Each is the inverse of the cumulative distribution at a number from its example's own stream, so
        that it depends on neither the batch nor the order.
        """
        uniform = torch.from_numpy(np.concatenate([self._uniform(row) for row in rows])).to(probs.device)
        step = max(1, _SLICE // probs.shape[-1])
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
