"""Training examples without their exploratory sentences, and as many tokens of other text less.

The paper had a language model cut exploration and verification out of its traces. Here the sentences
that :mod:`infra_lib.kinds.sentences` calls *check* or *alternative* are taken out whole, and what is
left stays as it was, so that the traces are the same but for them. A *mend* stays: without it a slip
would stand uncorrected.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from infra_lib.errors import ParameterError
from infra_lib.examples import Example, Sentence
from infra_lib.kinds.sentences import EXPLORATORY, with_kinds


def without_exploration(example: Example, kinds: Sequence[str] = EXPLORATORY) -> Example:
    """Return the example without the sentences of some kinds; the same object where it has none.

    An example that would be left without a response stays as it is.
    """
    found = with_kinds(example)
    kept = [span for span in found if span.kind not in kinds]
    if len(kept) == len(found) or not kept:
        return example
    parts = [example.response[span.start : span.end] for span in kept]
    # What followed the last sentence of the whole is no part of the sentence that is last now.
    if kept[-1] is not found[-1]:
        parts[-1] = parts[-1].rstrip()
    response = "".join(parts)
    if not response.strip():
        return example
    labels = {(span.start, span.end): span.kind for span in example.sentences}
    spans, at = [], 0
    for span, part in zip(kept, parts, strict=True):
        spans.append(Sentence(at, at + len(part), labels.get((span.start, span.end))))
        at += len(part)
    return replace(example, response=response, sentences=tuple(spans) if example.sentences else ())


def with_fewer_tokens(
    train: Sequence[Example], tokens: dict[str, int], *, count_tokens: Callable[[Example], int], seed: int
) -> list[Example]:
    """Drop whole examples at random until each domain has no more response tokens than it may.

    Parameters
    ----------
    tokens
        Response tokens that each domain may have.
    count_tokens
        Response tokens of an example.
    seed
        Of the choice which examples go.

    Returns
    -------
    list of Example
        What is left, in order: in each domain as close to its tokens as whole examples drawn in a
        random order come from above, less the one that crosses the line.

    Raises
    ------
    ParameterError
        For a domain without a number of tokens.
    """
    gone: set[str] = set()
    for domain in sorted({example.domain for example in train}):
        if domain not in tokens:
            raise ParameterError("tokens", sorted(tokens), f"complete: it lacks {domain}")
        own = [example for example in train if example.domain == domain]
        random.Random(f"fewer/{seed}/{domain}").shuffle(own)
        surplus = sum(map(count_tokens, own)) - tokens[domain]
        for example in own:
            if surplus <= 0:
                break
            gone.add(example.id)
            surplus -= count_tokens(example)
    return [example for example in train if example.id not in gone]
