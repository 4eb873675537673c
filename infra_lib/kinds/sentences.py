r"""Sort the sentences of a reasoning trace into kinds, by rules that are written down and tested.

The first rule of :data:`RULES` that fits decides; a sentence that none fits is a *step*. Rules look at
the sentence alone, so that the same sentence always has the same kind. White space, letter case and the
markers of lists and bold text do not count. Results come before exploration in the order of the rules:
"Hmm, so the answer is 7" states a result.

Agreement with the labels of the small world's generator is measured in notebook 04; hand-labelled
sentences of other traces are in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from infra_lib.examples import Example, Sentence
from infra_lib.sentences import split_sentences

STEP = "step"
"""Kind of a sentence that no rule fits."""

EXPLORATORY = ("check", "alternative")
"""Kinds that the paper's third claim is about: verifying, and seeking another way."""

_LOOKED_AT = 400
"""Characters of a sentence that rules look at, so that no text makes them slow."""

_NOW = r"(?:let me|let['’]?s|let us|i['’]ll|i will)"
_INTENDS = r"(?:i (?:should|can|could|need to|want to)|we (?:can|should|could))"
_SOFTLY = r"(?:also |now |quickly |just )?"
_VERIFY = (
    r"(?:double[- ]?check|re-?check|check|re-?verify|verify|confirm|re-?examine|re-?compute|re-?calculate)\b"
)
# What a program or a proof tests is no verification of the solution.
_NO_TEST = r"(?! (?:if|whether|each|every|all|for)\b)"
_WAIT = (
    r"(?:but |so |oh,? |hmm,? |actually,? |now,? )*(?:wait|hold on|hmm|hmmm)\b"
    r"(?:\s*[,.!?…:—–]|\s*$| (?:let|i|that|no|but|maybe|is|does)\b)"
)
_DECORATION = re.compile(r"^(?:[-*#>•\s]|\d{1,3}[.)]\s)+")
"""Markers of lists, headings and bold text before a sentence's first word."""


@dataclass(frozen=True)
class Rule:
    """A kind of sentence, and what makes a sentence one.

    Attributes
    ----------
    kind
        Name of the kind.
    says
        The rule in words.
    pattern
        The rule; it is sought in the sentence in lower case.
    """

    kind: str
    says: str
    pattern: re.Pattern[str]


def _rule(kind: str, says: str, *alternatives: str) -> Rule:
    return Rule(kind, says, re.compile("|".join(f"(?:{pattern})" for pattern in alternatives)))


RULES: tuple[Rule, ...] = (
    _rule("program", "is a fenced block", r"^```"),
    _rule(
        "mend",
        "takes back what was said: “that is wrong”, “I made a mistake”, “scratch that”",
        r"\b(?:that|this|it)(?:['’]s| is| was) (?:wrong|incorrect|not (?:quite )?(?:right|correct|true))\b",
        r"\b(?:that|this|it) (?:isn|wasn)['’]?t (?:quite )?(?:right|correct|true)\b",
        r"\b(?:that|this|it) (?:can['’]?t|cannot) be (?:right|correct|true)\b",
        r"\bi (?:made|have made|must have made) (?:a|an) \w*\s?(?:mistake|error|slip)",
        r"\b(?:scratch that|correction:|i misread|i misinterpreted)",
    ),
    _rule(
        "conclusion",
        "states the result: “the answer is”, a boxed answer, “Finally return”",
        r"^(?!.*\b(?:whether|if|check|verify)\b).*\banswer (?:is|would be|should be|must be|=)",
        r"\banswer: ?\S",
        r"\\boxed\b",
        r"^finally,? (?:return|we (?:return|conclude|get|have|obtain))",
        r"^(?:in conclusion|to conclude|in summary|to summarize)\b",
    ),
    _rule(
        "alternative",
        "seeks another way: “Alternatively”, “another way”, “a different approach”",
        r"^(?:but |or,? )?alternatively\b",
        r"\b(?:another|a different|an alternative|some other) (?:way|approach)\b",
        r"\b(?:try|is there|there is|consider|use) (?:another|a different|an alternative|some other)"
        r" (?:method|idea|solution|route|strategy)\b",
        rf"^{_WAIT}.{{0,20}}\b(?:perhaps|what if)\b",
        rf"^{_WAIT}\s*maybe\b",
        r"^(?:but )?what if\b",
    ),
    _rule(
        "check",
        "verifies: “Wait”, “let me check”, “double-check”, “verify”, “plug it back in”",
        rf"\b{_NOW} {_SOFTLY}(?:{_VERIFY}|make sure\b|test (?:this|it|that|the|with)\b)",
        rf"\b{_INTENDS} {_SOFTLY}(?:{_VERIFY}{_NO_TEST}|make sure\b|test (?:this|it|that)\b)",
        rf"^(?:(?:so|now|first|quick|just),? )?{_VERIFY}{_NO_TEST}",
        rf"^(?:just )?to {_SOFTLY}(?:double[- ]?check|re-?check|verify|confirm|be sure|make sure)\b",
        r"^(?:quick )?(?:sanity check|verification|check)\b\s*[:.]",
        r"^(?:sanity check|verification)\b",
        r"\bplug(?:ging)? (?:\S+ ){1,3}back\b",
        rf"^{_WAIT}",
    ),
    _rule(
        "setup",
        "says what is given or asked: “Start with”, “Given”, “We need to”",
        r"^(?:(?:ok|okay|alright|so|first|well),? )*(?:start with|given\b|suppose\b|denote\b"
        r"|we(?:['’]re| are) (?:given|told|asked)|(?:we|i) (?:have to|need to|want to)"
        r"|the (?:problem|question|task) (?:is|asks|says|gives|states)|to (?:solve|find|determine)\b"
        r"|let (?:\$?[a-z]\w{0,2}\$? (?:be|denote)|us denote)"
        r"|let me (?:start by |first )?(?:understand|read|restate|define|parse))",
    ),
    _rule(
        "connector",
        "leads over, without a formula: “So far we have 12”, “Now let's continue”",
        r"^(?:ok|okay|alright|good|great|so far|now|next|then|moving on|with (?:this|that)|continuing"
        r"|let['’]?s (?:see|continue|proceed|move on))\b"
        r"(?!.*(?:[=<>+*/^\[\]×÷·$\\]|, so\b|\d\s*[-−]\s*\d"
        r"|\b(?:add|subtract|multiply|divide|substitute|square|sort|reverse|return|is|are|equals?)\b))",
    ),
)
"""The rules in order: the first that fits decides."""

KINDS: tuple[str, ...] = ("setup", STEP, "connector", "check", "alternative", "mend", "conclusion", "program")
"""All kinds, in the order of tables."""


def kind_of(sentence: str) -> str:
    """Return the kind of a sentence by its text."""
    text = _DECORATION.sub("", " ".join(sentence[:_LOOKED_AT].lower().split())).replace("**", "")
    return next((rule.kind for rule in RULES if rule.pattern.search(text)), STEP)


def with_kinds(example: Example) -> tuple[Sentence, ...]:
    """Return an example's sentences, with the kinds that the rules give them.

    Spans are the example's own where it has any, else those of
    :func:`infra_lib.sentences.split_sentences`.
    """
    spans = example.sentences or split_sentences(example.response)
    return tuple(replace(span, kind=kind_of(example.response[span.start : span.end])) for span in spans)


def rules_frame() -> pd.DataFrame:
    """Return the rules as a table. Columns: kind, says."""
    rows = [{"kind": rule.kind, "says": rule.says} for rule in RULES]
    return pd.DataFrame([*rows, {"kind": STEP, "says": "fits none of the rules above"}])


def agreement(examples: Sequence[Example]) -> pd.DataFrame:
    """Count the sentences by the label that the data give and the kind that the rules give.

    Returns
    -------
    pandas.DataFrame
        domain, label, kind, n; no rows where the data label nothing.
    """
    rows = [
        {"domain": example.domain, "label": own.kind, "kind": found.kind}
        for example in examples
        for own, found in zip(example.sentences, with_kinds(example), strict=False)
        if own.kind is not None
    ]
    frame = pd.DataFrame(rows, columns=["domain", "label", "kind"])
    return frame.groupby(["domain", "label", "kind"]).size().rename("n").reset_index()
