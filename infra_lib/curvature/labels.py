"""The labels behind the factors: sampled from the model (true Fisher) or the data's own (empirical)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra_lib.models import Batch, Encoded, select_log_probs

LABELS = ("sampled", "empirical")


class LabelSource:
    """The labels behind the factors: sampled from the model, or the data's own."""

    def __init__(self, kind: str, seed: int, encoded: Sequence[Encoded]) -> None:
        self._kind, self._seed, self._encoded = kind, seed, encoded

    def backward(self, model: Any, batch: Batch) -> None:
        """Run forward and backward of the batch's summed loss under these labels."""
        batch = batch.to(model.device)
        logits = model(**batch.inputs, use_cache=False).logits
        if self._kind == "sampled":
            batch = Batch(
                self._sample(logits.detach(), batch),
                batch.attention_mask,
                batch.loss_mask,
                batch.position_ids,
                batch.rows,
            )
        (-select_log_probs(logits, batch).sum()).backward()

    @torch.no_grad()
    def _sample(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return token ids with the loss-carrying ones drawn from the model, by inverse distribution."""
        uniform = torch.zeros(batch.loss_mask.shape)
        mask = batch.loss_mask.cpu()
        for i, row in enumerate(batch.rows):
            uniform[i, mask[i]] = torch.from_numpy(self._uniform(row)).float()
        cumulative = torch.softmax(logits[:, :-1].double(), dim=-1).cumsum(-1)
        wanted = uniform[:, 1:, None].to(cumulative) * cumulative[..., -1:]
        drawn = torch.searchsorted(cumulative, wanted).squeeze(-1).clamp(max=logits.shape[-1] - 1)
        ids = batch.input_ids.clone()
        ids[:, 1:] = torch.where(batch.loss_mask[:, 1:], drawn, ids[:, 1:])
        return ids

    def _uniform(self, row: int) -> np.ndarray:
        """Return one uniform number per loss term of an example, from its own stream."""
        example = self._encoded[row]
        digest = hashlib.sha256(f"{self._seed}/{example.id}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big")).random(int(example.loss_mask.sum()))
