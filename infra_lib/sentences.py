r"""Split a response into sentences by a written rule, without a model.

1. These stay whole: a fenced block (from a line that starts with three backticks to the line that
   closes it), displayed mathematics (``$$…$$``, ``\[…\]``, ``\begin{align}…\end{align}`` and the other
   environments of equations), and inline mathematics on one line (``$…$``, ``\(…\)``). One that is never
   closed is a fence to the end of the text, and plain text for mathematics.
2. A fence, and a tag of a trace (``<|begin_of_thought|>``, ``<think>`` …), is a sentence of its own.
3. Elsewhere a sentence ends at a line end, or after ``.``, ``!``, ``?`` or their full-width forms,
   with any closing quotes and brackets, where white space follows.
4. A full stop ends nothing inside a number (``3.5``), after an abbreviation (``e.g.``, ``i.e.``, ``cf.``,
   ``vs.`` …; ``Eq.``, ``Fig.``, ``No.`` … before a number), or after the marker of a list item
   at the beginning of a line (``1.``, ``a)``).
5. White space belongs to the sentence before it, so the sentences cover the response from its first
   character to its last, in order and without overlap.

In ``$…$`` the first character inside and the last are no white space, and no digit follows: amounts of
money are not taken for mathematics.

The time is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from infra_lib.examples import Sentence

_ENVIRONMENTS = (
    "align|aligned|alignat|array|bmatrix|cases|equation|gather|gathered|matrix|multline|pmatrix|smallmatrix"
    "|split|vmatrix"
)
_OPENING = re.compile(
    r"(?P<fence>^[ \t]*```)"
    r"|(?P<tag></?(?:think|thought|solution|answer)>|<\|(?:begin|end)_of_(?:thought|solution)\|>)"
    r"|(?P<display>\$\$|\\\[|\\\()"
    rf"|\\begin\{{(?P<name>(?:{_ENVIRONMENTS})\*?)\}}"
    r"|(?P<inline>(?<![\\$])\$(?=[^\s$])[^$\n]{0,400}?(?<![\s\\])\$(?![\d$]))",
    re.MULTILINE,
)
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_CLOSING = {"$$": "$$", "\\[": "\\]", "\\(": "\\)"}
_END = re.compile(r"\n+\s*|(?<![.!?。！？])[.!?。！？]+[\"'”’)\]]*(?:\s+|(?<=[。！？])(?=\S))")
_MARKER = re.compile(r"[ \t]*(?:\*\*)?(?:\d{1,3}|[A-Za-z])[.)](?:\*\*)?[ \t]+")
# Looked up in the few characters before a full stop, so that no text makes it slow.
_ABBREVIATION = re.compile(r"(?:\b(?:cf|vs|approx|resp|Dr|Mr|Mrs|Ms|Prof|viz|ca|al)|\.[A-Za-z])\.$")
_BEFORE_NUMBER = re.compile(r"\b(?:Eqs?|Figs?|Nos?|no|Sec|Ch|Chap|Thm|Prop|Lem|Prob|pp?|vol)\.$")


def split_sentences(text: str) -> tuple[Sentence, ...]:
    """Return the sentences of a text as spans; an empty text has none."""
    cuts = {0, len(text)}
    at = 0
    for start, end, alone in _whole(text):
        cuts.update(_ends(text, at, start))
        if alone:
            cuts.add(start)
            cuts.add(end)
        at = end
    cuts.update(_ends(text, at, len(text)))
    return tuple(Sentence(start, end) for start, end in pairwise(sorted(cuts)))


def _whole(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield what is never split: start, end (with white space after it where it stands alone), alone."""
    at = 0
    never: set[str] = set()  # closings that do not occur any more, so that none is sought twice
    while match := _OPENING.search(text, at):
        start, kind = match.start(), match.lastgroup
        if kind == "fence":
            closing = _FENCE.search(text, _line_end(text, match.end()))
            at = _after_space(text, _line_end(text, closing.end()) if closing else len(text))
            yield start, at, True
        elif kind == "tag":
            at = _after_space(text, match.end())
            yield start, at, True
        elif kind == "inline":
            at = match.end()
            yield start, at, False
        else:
            closing_text = f"\\end{{{match['name']}}}" if kind == "name" else _CLOSING[match.group()]
            at = match.end()
            found = -1 if closing_text in never else text.find(closing_text, at)
            if found < 0:
                never.add(closing_text)
            else:
                at = found + len(closing_text)
                yield start, at, False


def _ends(text: str, start: int, stop: int) -> Iterator[int]:
    """Yield the sentence ends between two positions of plain text."""
    at = start
    marker = _MARKER.match(text, at, stop) if _begins_line(text, at) else None
    at = marker.end() if marker else at
    while match := _END.search(text, at, stop):
        at = match.end()
        if "\n" in match.group():
            yield at
            marker = _MARKER.match(text, at, stop)
            at = marker.end() if marker else at
        elif not _goes_on(text, match):
            yield at


def _begins_line(text: str, at: int) -> bool:
    return at == 0 or text[at - 1] == "\n"


def _goes_on(text: str, end: re.Match[str]) -> bool:
    """Return whether a full stop belongs to an abbreviation."""
    if text[end.start()] != ".":
        return False
    before = text[max(0, end.start() - 8) : end.start() + 1]
    following = text[end.end() : end.end() + 1]
    return bool(_ABBREVIATION.search(before) or (following.isdigit() and _BEFORE_NUMBER.search(before)))


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
