"""Split a trace of reasoning into steps: runs of sentences, with the section and the turn they make.

A step is a paragraph (ended by an empty line), except that

* a sentence that turns round ("Wait", "Alternatively", "Let me check" …) begins a step of its own,
  also in the middle of a paragraph;
* a tag of the trace is a step by itself, and what stands inside a section keeps its name.

Sentences come from :func:`infra_lib.sentences.split_sentences`, so code, displayed mathematics and list
items stay whole, and the steps cover the text from its first character to its last.

===============  ============================================================================
turn             first words of the step
===============  ============================================================================
``check``        Wait, Hmm, Hold on, Let me (double-)check, verify, make sure, Is that right
``alternative``  Alternatively, Another way, Instead, What if, Maybe, Perhaps I, Let me try
``conclusion``   Therefore, Thus, Hence, In conclusion, So the (final) answer
===============  ============================================================================

The words are a choice of ours, after what DeepSeek-R1 writes; any other step has no turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from tqdm import tqdm

from infra_lib.examples import Example, Sentence
from infra_lib.sentences import split_sentences

_TAG = re.compile(
    r"<(?P<slash>/?)(?P<plain>think|thought|solution|answer)>|<\|(?P<edge>begin|end)_of_(?P<name>\w+)\|>"
)
_LEAD = r"(?:(?:but|so|okay|ok|oh|no|ah|now|and|yes|well|then|or)\b[,.!]?\s+){0,3}"
_CHECK = r"(?:just |quickly )?(?:double[- ]?check|re-?check|check|verify|confirm|make sure)\b"
_TURNS = {
    "check": re.compile(
        rf"{_LEAD}(?:wait\b|hmm+\b|hold on\b|(?:let(?:'s|’s| me| us)?|to|just to) {_CHECK}"
        r"|is (?:that|this) (?:right|correct)\b|did i\b)",
        re.IGNORECASE,
    ),
    "alternative": re.compile(
        rf"{_LEAD}(?:alternatively\b|another (?:way|approach|method|idea)\b|instead\b|what if\b|maybe\b"
        r"|perhaps i\b|let(?:'s| me| us)? try\b|on the other hand\b)",
        re.IGNORECASE,
    ),
    "conclusion": re.compile(
        rf"{_LEAD}(?:therefore\b|thus\b|hence\b|in conclusion\b|(?:the )?final answer\b|the answer is\b)",
        re.IGNORECASE,
    ),
}
_BREAK = re.compile(r"\n[ \t]*\n\s*\Z")


@dataclass(frozen=True)
class Step:
    """A step: characters ``start`` to ``end`` of the text.

    Attributes
    ----------
    section
        ``thought`` or ``solution`` (or the tag's own name), None outside of sections.
    turn
        ``check``, ``alternative``, ``conclusion`` (table above), ``tag`` for a tag, or None.
    sentences
        How many sentences it has.
    """

    start: int
    end: int
    section: str | None
    turn: str | None
    sentences: int


def split_steps(text: str) -> tuple[Step, ...]:
    """Return the steps of a trace; an empty text has none."""
    steps: list[Step] = []
    section: str | None = None
    run: list[tuple[int, int]] = []

    def close() -> None:
        if run:
            turn = turn_of(text[run[0][0] : run[0][0] + 120])
            steps.append(Step(run[0][0], run[-1][1], section, turn, len(run)))
            run.clear()

    for sentence in split_sentences(text):
        start, end = sentence.start, sentence.end
        piece = text[start:end]
        if tag := _TAG.fullmatch(piece.strip()):
            close()
            opens = tag["edge"] == "begin" or (tag["edge"] is None and not tag["slash"])
            section = _section(tag["name"] or tag["plain"]) if opens else None
            steps.append(Step(start, end, None, "tag", 1))
            continue
        if run and (
            _BREAK.search(text[run[-1][0] : run[-1][1]]) or turn_of(piece) in ("check", "alternative")
        ):
            close()
        run.append((start, end))
    close()
    return tuple(steps)


def label_sentences(text: str) -> tuple[Sentence, ...]:
    """Return the sentences of a trace with kinds, named as in the small world.

    ``program`` for a fenced block, ``check``, ``alternative`` or ``conclusion`` for the turn that the first
    words make, ``tag`` for a tag, and ``step`` for the rest.
    """
    labelled = []
    for sentence in split_sentences(text):
        piece = text[sentence.start : sentence.end]
        if piece.lstrip(" \t").startswith("```"):
            kind = "program"
        elif _TAG.fullmatch(piece.strip()):
            kind = "tag"
        else:
            kind = turn_of(piece) or "step"
        labelled.append(Sentence(sentence.start, sentence.end, kind))
    return tuple(labelled)


def turn_of(sentence: str) -> str | None:
    """Return the turn that a sentence's first words make, or None."""
    head = sentence.lstrip(" \t\n*_#>-")
    return next((turn for turn, pattern in _TURNS.items() if pattern.match(head)), None)


def _section(name: str) -> str:
    return "thought" if name == "think" else name


# --- Many traces -------------------------------------------------------------------------

COUNTED = (
    "source",
    "domain",
    "examples",
    "traces",
    "steps",
    "steps_low",
    "steps_high",
    "sentences",
    "check",
    "alternative",
)


def is_trace(text: str) -> bool:
    """Return whether a text marks its sections by tags, as long traces of reasoning do."""
    return _TAG.search(text) is not None


def count_steps(examples: Sequence[Example], sources: Sequence[str]) -> pd.DataFrame:
    """Return how many steps the traces of each source and domain have; tags are not counted.

    Parameters
    ----------
    examples
        Training examples; those whose response is no trace (:func:`is_trace`) are counted and no more.
    sources
        Where each comes from, in the same order.

    Returns
    -------
    pandas.DataFrame
        Columns :data:`COUNTED`: examples, traces (of them), then per trace: steps (median), steps_low and
        steps_high (quartiles), sentences (median), check and alternative (means of the steps that make this
        turn). No row for a source without traces.
    """
    rows = []
    pairs = list(zip(examples, sources, strict=True))
    # Published sets take minutes; a bar is for those alone.
    for example, source in tqdm(pairs, desc="steps of traces", unit="example", delay=10):
        found = split_steps(example.response) if is_trace(example.response) else None
        own = [step for step in found or () if step.turn != "tag"]
        rows.append(
            {
                "source": source,
                "domain": example.domain,
                "trace": found is not None,
                "steps": len(own),
                "sentences": sum(step.sentences for step in own),
                "check": sum(step.turn == "check" for step in own),
                "alternative": sum(step.turn == "alternative" for step in own),
            }
        )
    counted = []
    for (source, domain), part in pd.DataFrame(rows).groupby(["source", "domain"], sort=True):
        traces = part[part["trace"]]
        if traces.empty:
            continue
        counted.append(
            {
                "source": source,
                "domain": domain,
                "examples": len(part),
                "traces": len(traces),
                "steps": float(traces["steps"].median()),
                "steps_low": float(traces["steps"].quantile(0.25)),
                "steps_high": float(traces["steps"].quantile(0.75)),
                "sentences": float(traces["sentences"].median()),
                "check": float(traces["check"].mean()),
                "alternative": float(traces["alternative"].mean()),
            }
        )
    return pd.DataFrame(counted, columns=list(COUNTED))
