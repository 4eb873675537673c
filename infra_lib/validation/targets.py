r"""What a target's log-likelihood counts: the whole response, its critical tokens, or its final answer.

Free choices of words dominate the log-likelihood of a whole response. *Critical* tokens are those
that make it right or wrong: the number after each equals sign, the final answer, and the program.
The *final* tokens are the answer and the program alone. The rules read the response's text, so that
they hold for responses that a model wrote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from infra_lib.answers import last_boxed, last_hashes, last_stated
from infra_lib.errors import ParameterError
from infra_lib.models import Encoded

TOKENS = ("whole", "critical", "final")
"""Choices of tokens that a target counts."""

_RESULT = re.compile(r"=\s*\$?(-?\d[\d,]*(?:\.\d+)?)")
_PROGRAM = re.compile(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)


def spans(text: str, tokens: str) -> list[tuple[int, int]]:
    """Return the characters (start, end) of a response that a choice of tokens counts.

    A response in which no answer and no program is found counts as a whole, whatever the choice.

    Raises
    ------
    ParameterError
        For an unknown choice.
    """
    if tokens not in TOKENS:
        raise ParameterError("target_tokens", tokens, f"one of {', '.join(TOKENS)}")
    whole = [(0, len(text) + 1)]
    if tokens == "whole":
        return whole
    programs = [match.span(1) for match in _PROGRAM.finditer(text)]
    found = programs or _answer(text)
    if tokens == "critical":
        found = found + [match.span(1) for match in _RESULT.finditer(text)]
    return found or whole


def _answer(text: str) -> list[tuple[int, int]]:
    """Return where the final answer stands, by the rules of :mod:`infra_lib.answers`."""
    for find in (last_boxed, last_hashes, last_stated):
        if (answer := find(text)) and (start := text.rfind(answer)) >= 0:
            return [(start, start + len(answer))]
    return []


def token_mask(text: str, offsets: Sequence[tuple[int, int]], tokens: str) -> np.ndarray:
    """Return which response tokens a choice counts, bool [response tokens].

    Parameters
    ----------
    offsets
        Character span of each token, as :class:`infra_lib.models.Encoded` has them.
    """
    chosen = np.zeros(len(offsets), dtype=bool)
    for start, end in spans(text, tokens):
        chosen |= np.array([first < end and max(last, first + 1) > start for first, last in offsets])
    return chosen


def restricted(encoded: Encoded, mask: np.ndarray) -> Encoded:
    """Return an example whose loss terms are those of ``mask`` [response tokens] alone.

    Raises
    ------
    ParameterError
        Where none is left.
    """
    if not mask.any():
        raise ParameterError("target_tokens", encoded.id, "a choice that leaves each response a token")
    loss_mask = torch.zeros_like(encoded.loss_mask)
    loss_mask[encoded.loss_mask.nonzero().squeeze(1)[torch.from_numpy(mask)]] = True
    kept = tuple(span for span, keep in zip(encoded.offsets, mask, strict=True) if keep)
    return replace(encoded, loss_mask=loss_mask, offsets=kept)
