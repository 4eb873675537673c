r"""Find the final answer that a text states: boxed, after ``####``, or after "answer is".

Rules, the same for responses and for reference solutions:

* the **last** ``\boxed{…}`` (or ``\fbox{…}``) whose braces are closed counts, whatever stands in boxes
  before it; a last box that is never closed counts as no answer of that kind;
* the **last** line that begins with ``####`` is GSM8K's own form;
* the **last** "answer is …" runs to the end of its sentence or line.
"""

from __future__ import annotations

import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)$", re.MULTILINE)
_STATED = re.compile(
    r"answer is[:\s]*\$?(-?\d[\d,]*(?:\.\d+)?|[^\s.][^\n]*?)\$?(?=\.(?:\s|$)|\n|$)", re.IGNORECASE
)
LONGEST = 20_000
"""Characters of a text that are looked at, from its end: an answer stands there."""


def last_boxed(text: str) -> str | None:
    """Return what stands in the last box, or None where there is none or it is not closed."""
    openings = list(_BOX.finditer(text[-LONGEST:]))
    if not openings:
        return None
    tail, begin, depth = text[-LONGEST:], openings[-1].end(), 0
    for at in range(begin, len(tail)):
        if tail[at] == "{":
            depth += 1
        elif tail[at] == "}":
            if depth == 0:
                return tail[begin:at].strip()
            depth -= 1
    return None


def last_hashes(text: str) -> str | None:
    """Return what follows the last ``####`` at the beginning of a line, or None."""
    found = _HASHES.findall(text[-LONGEST:])
    return found[-1].strip() if found else None


def last_stated(text: str) -> str | None:
    """Return what follows the last "answer is", or None."""
    found = _STATED.findall(text[-LONGEST:])
    return found[-1].strip() if found else None
