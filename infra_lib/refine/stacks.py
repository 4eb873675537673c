"""Arithmetic on stacks of directions, one number per direction."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Stacked = dict[str, Tensor]
"""Several directions at once: one tensor [directions, out, in] per layer name."""


def dot(first: Stacked, second: Stacked) -> np.ndarray:
    """Return the inner product of each pair of directions in two stacks, shape [directions]."""
    parts = [(first[n].double() * second[n].double()).sum((1, 2)) for n in first]
    return torch.stack(parts).sum(0).cpu().numpy()


def norm(stacked: Stacked) -> np.ndarray:
    """Return the norm of each direction of a stack, shape [directions]."""
    return np.sqrt(dot(stacked, stacked))


def add(first: Stacked, second: Stacked, factor: np.ndarray) -> Stacked:
    """Return first + factor × second, one factor per direction."""
    return {
        n: part + torch.from_numpy(factor).to(part)[:, None, None] * second[n] for n, part in first.items()
    }


def blend(first: Stacked, second: Stacked, share: float) -> Stacked:
    """Return (1 − share) × first + share × second."""
    return {n: torch.lerp(part, second[n], share) for n, part in first.items()}


def ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """Divide, with 0 where a target that is already solved leaves nothing to divide."""
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)
