r"""Split a response into sentences by a written rule, without a model.

1. A fenced block (from a line that starts with three backticks to the line that closes it) is one
   sentence.
2. Elsewhere a sentence ends at a line end, or after ``.``, ``!``, ``?`` or their full-width forms,
   with any closing quotes and brackets, where white space follows.
3. A full stop inside a number (``3.5``) or after a single letter (``e.g.``) ends nothing.
4. White space belongs to the sentence before it, so the sentences cover the response from its first
   character to its last, in order and without overlap.

The time is linear in the length of the text.
"""

from __future__ import annotations

import re
from itertools import pairwise

from infra_lib.examples import Sentence

_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_END = re.compile(
    r"\n+\s*|(?<![.!?。！？])(?<![\s.][A-Za-z])[.!?。！？]+[\"'”’)\]]*(?:\s+|(?<=[。！？])(?=\S))"
)


def split_sentences(text: str) -> tuple[Sentence, ...]:
    """Return the sentences of a text as spans; an empty text has none."""
    cuts: list[int] = []
    at = 0
    while at < len(text):
        opening = _FENCE.search(text, at)
        stop = opening.start() if opening else len(text)
        cuts += [match.end() for match in _END.finditer(text, at, stop)]
        if opening is None:
            break
        cuts.append(stop)
        closing = _FENCE.search(text, _line_end(text, opening.end()))
        at = _after_space(text, _line_end(text, closing.end()) if closing else len(text))
        cuts.append(at)
    edges = sorted({0, len(text), *(cut for cut in cuts if 0 < cut < len(text))})
    return tuple(Sentence(start, end) for start, end in pairwise(edges))


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
