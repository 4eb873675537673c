"""What a grader says of one response."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grade:
    """A verdict with its reason.

    Attributes
    ----------
    correct
        Whether the response solves the problem.
    extracted
        The answer or program that was found in the response, None where there was none.
    reason
        ``correct``, ``wrong answer``, ``no answer``, ``no program``, ``error``, ``timeout``, ``memory``,
        ``output`` or ``killed``.
    """

    correct: bool
    extracted: str | None
    reason: str
