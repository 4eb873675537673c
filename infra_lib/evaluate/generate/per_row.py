"""Sampling in which every row of a batch has its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from infra_lib.evaluate.generate.sampling import Sampling


class PerRowSampler(LogitsProcessor):
    """Choose each row's next token by its own draws, and leave only that token to greedy decoding.

    transformers draws for a whole batch from one generator, so that an answer would depend on its
    neighbours. Here row r has uniform numbers u_r1, u_r2, … from NumPy's generator seeded by the
    request, the same on every device, and takes the first token whose cumulated probability, after
    temperature, top-k and top-p, exceeds u_rt (inversion; in float64, since a float32 sum over a
    vocabulary of 150,000 is off by more than a rare token's probability).
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int], width: int) -> None:
        draws = [np.random.default_rng(seed).random(sampling.max_new_tokens) for seed in seeds]
        self._draws = torch.tensor(np.stack(draws))  # [rows, tokens]
        self._width = width
        self._warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(sampling.temperature))]
        if sampling.top_k:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores [rows, vocabulary] that are 0 for the chosen token and −∞ elsewhere."""
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        cumulated = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
        if self._draws.device != cumulated.device:
            self._draws = self._draws.to(cumulated.device)  # once, not for every token
        draws = self._draws[:, input_ids.shape[1] - self._width, None].to(cumulated)
        # Just below the total, so that rounding never chooses a token behind the last possible one.
        targets = (draws * cumulated[:, -1:]).minimum(cumulated[:, -1:] * (1 - 1e-14))
        chosen = torch.searchsorted(cumulated, targets, right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)
