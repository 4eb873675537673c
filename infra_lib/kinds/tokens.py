"""Sort the tokens of a response into classes: prose by lists of words, Python by Python's own tokenizer.

=================  =============================================================================
class              what it is
=================  =============================================================================
logic connector    a word of :data:`CONNECTORS`, in prose
structural syntax  in a program: keywords, brackets, commas, colons, dots, line ends, indents,
                   and the fences around it
operator           arithmetic, comparison and assignment, in programs and in prose
number             a number, in programs and in prose
name               any other name in a program
other              everything else: other words, punctuation of prose, comments, strings
end                the end token
=================  =============================================================================

Words of Python's expressions (*if*, *and*, *or*, *not*, *else*) are no connectors: in prose they stand in
expressions as well. A program is what stands in a fenced block; where Python's tokenizer
gives up, the rest of the block is *other*.

A token belongs to the class of its first character that is no white space, or of its first character.
"""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections.abc import Sequence

import numpy as np

from infra_lib.influence import first_characters

CLASSES = ("logic connector", "structural syntax", "operator", "number", "name", "other", "end")
"""All classes, in the order of tables."""

_CODE = {name: index for index, name in enumerate(CLASSES)}

# fmt: off
CONNECTORS = frozenset(
    (
        "wait", "verify", "check", "alternatively", "therefore", "thus", "hence", "so", "because",
        "since", "then", "next", "first", "finally", "after", "before", "now",
        "however", "but", "although", "though", "instead", "otherwise", "while", "whereas",
        "unless", "consequently", "accordingly", "moreover", "furthermore", "suppose", "assume",
        "given", "let", "hmm", "actually", "maybe", "perhaps"
    )
)
# fmt: on
"""Words of natural language that connect the steps of an argument. Our choice: the paper names three."""

_FENCE = re.compile(r"^[ \t]*```([^\n`]*)\n", re.MULTILINE)
_FENCE_END = re.compile(r"^[ \t]*```", re.MULTILINE)
_PROSE = re.compile(
    r"(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)*)|(?P<number>\d+(?:[.,]\d+)*)"
    # Marks of bold text, tags and lists are no operators, and neither is a hyphen between words.
    r"|(?P<mark>\*\*|</?[A-Za-z][\w|]*>|(?:^|(?<=\n))[ \t]*[-*+][ \t])"
    r"|(?P<operator>[+*/=<>^%×÷·≤≥≠≈±]+|(?<![^\W\d_])[-−]|[-−](?![^\W\d_])"
    r"|(?<=\b[^\W\d_])[-−](?=[^\W\d_]\b))"
)
_BRACKETS = frozenset("()[]{},:;.")
_PYTHON = frozenset(("", "py", "python", "python3"))
_STRING_START, _STRING_END = (getattr(tokenize, f"FSTRING_{end}", None) for end in ("START", "END"))
_LINES = (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT)


def character_classes(text: str) -> np.ndarray:
    """Return the class of each character of a response, as an index into :data:`CLASSES` [characters]."""
    classes = np.full(len(text), _CODE["other"], dtype=np.int8)
    at = 0
    while opening := _FENCE.search(text, at):
        _prose(text, at, opening.start(), classes)
        closing = _FENCE_END.search(text, opening.end())
        stop = closing.start() if closing else len(text)
        at = closing.end() if closing else len(text)
        classes[opening.start() : opening.end()] = _CODE["structural syntax"]
        classes[stop:at] = _CODE["structural syntax"]
        if opening[1].strip().lower() in _PYTHON:
            _program(text, opening.end(), stop, classes)
    _prose(text, at, len(text), classes)
    return classes


def _prose(text: str, start: int, stop: int, classes: np.ndarray) -> None:
    for match in _PROSE.finditer(text, start, stop):
        kind = str(match.lastgroup)
        if kind == "mark":
            continue
        if kind == "word":
            kind = "logic connector" if match.group().lower() in CONNECTORS else "other"
        classes[match.start() : match.end()] = _CODE[kind]


def _program(text: str, start: int, stop: int, classes: np.ndarray) -> None:
    lines = list(io.StringIO(text[start:stop]))  # cut where the tokenizer cuts, at line feeds alone
    begins = np.concatenate([[0], np.cumsum([len(line) for line in lines])]) + start
    # White space between tokens is no token: it goes with the line's structure.
    for index in range(start, stop):
        if text[index].isspace():
            classes[index] = _CODE["structural syntax"]
    try:
        depth = 0
        for token in tokenize.generate_tokens(io.StringIO("".join(lines)).readline):
            # Since Python 3.12 a formatted string comes in parts; all of it is a string here, as before.
            depth += (token.type == _STRING_START) - (token.type == _STRING_END)
            kind = _class_of(token)
            if depth or kind is None or token.start[0] > len(lines):
                continue
            first = begins[token.start[0] - 1] + token.start[1]
            last = begins[min(token.end[0], len(lines)) - 1] + token.end[1]
            classes[first : min(last, stop)] = _CODE[kind]
    except (tokenize.TokenError, SyntaxError):
        return


def _class_of(token: tokenize.TokenInfo) -> str | None:
    if token.type == tokenize.NAME:
        return "structural syntax" if keyword.iskeyword(token.string) else "name"
    if token.type == tokenize.NUMBER:
        return "number"
    if token.type == tokenize.OP:
        return "structural syntax" if set(token.string) <= _BRACKETS else "operator"
    return "structural syntax" if token.type in _LINES else None


def token_classes(offsets: Sequence[tuple[int, int]], text: str) -> np.ndarray:
    """Return the class of each token, as an index into :data:`CLASSES` [tokens].

    Parameters
    ----------
    offsets
        Character span of each token in the response; the end token's is empty, and so are those of the later
        tokens of a character that takes several.
    text
        The response.
    """
    of_character = character_classes(text)
    found = np.empty(len(offsets), dtype=np.int8)
    firsts = first_characters(offsets, text)
    for index, ((start, end), first) in enumerate(zip(offsets, firsts, strict=True)):
        if end <= start:
            last = index == len(offsets) - 1 and start == len(text)
            found[index] = _CODE["end"] if last or not start else of_character[start - 1]
            continue
        found[index] = of_character[first]
    return found
