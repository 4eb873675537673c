"""Scores of several methods as three tidy tables: examples, sentences, tokens.

Rows stand in blocks, one for each pair of method and target, and within a block in the order of the
examples, so that a column of scores can be read as an array [pairs, rows]. Sums hold in both readings
of a token: an example's score is the sum of its sentences' and of its tokens'. In the position
reading the prompt carries a share of its own: the row with index −1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra_lib.attributes import score_table
from infra_lib.explorer.score import Explored, TokenScores
from infra_lib.influence import example_scores, response_positions, span_of_tokens
from infra_lib.sentences import split_sentences

COLUMNS = ["method", "target"]
"""Columns of which each pair of values has a block of rows."""

READINGS = ("loss", "position")
"""Columns of scores of the finer tables: the two readings of a token."""

PROMPT = -1
"""Index of the row that holds the prompt's share of the position reading."""


@dataclass(frozen=True)
class _Layout:
    """What stands in the rows of one block, the same for every method and target."""

    tokens: pd.DataFrame  # id, index, sentence, start, end
    sentences: pd.DataFrame  # id, index, start, end, kind, n_tokens
    owner: np.ndarray  # row of ``sentences`` for each row of ``tokens``


def example_table(found: Explored) -> pd.DataFrame:
    """Return id, target, score, rank (1 = most helpful), n_tokens, method: one row per example and pair."""
    counts = [row.n_tokens for row in found.encoded]
    parts = []
    for (method, target), rows in found.loss.items():
        values = example_scores({target: rows})
        parts.append(score_table(values, found.train, counts).assign(method=method))
    return pd.concat(parts, ignore_index=True)


def finer_tables(found: Explored) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of sentences and of tokens.

    Returns
    -------
    sentences
        id, index, start, end (characters of the response), kind, n_tokens, method, target, loss, position.
    tokens
        id, index, sentence, start, end, method, target, loss, position.
    """
    layout = _layout(found)
    sentences, tokens = [], []
    for key in found.loss:
        loss, position = _columns(found.loss, key, found), _columns(found.position, key, found)
        names = {"method": key[0], "target": key[1]}
        tokens.append(layout.tokens.assign(**names, loss=loss, position=position))
        sums = {
            name: np.bincount(layout.owner, weights=values, minlength=len(layout.sentences))
            for name, values in (("loss", loss), ("position", position))
        }
        sentences.append(layout.sentences.assign(**names, **sums))
    return _compact(pd.concat(sentences, ignore_index=True)), _compact(pd.concat(tokens, ignore_index=True))


def _compact(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with repeated text stored once."""
    return frame.astype({name: "category" for name in ("id", "method", "target") if name in frame})


def _columns(scores: TokenScores, key: tuple[str, str], found: Explored) -> np.ndarray:
    """Return the scores of a block's rows: for each example the prompt's share, then its tokens."""
    parts: list[np.ndarray] = []
    for row, values in zip(found.encoded, scores[key], strict=True):
        share, own = (0.0, values) if len(values) == row.n_tokens else response_positions(row, values)
        parts += [np.array([share]), own.astype(np.float64)]
    return np.concatenate(parts)


def _layout(found: Explored) -> _Layout:
    tokens, sentences, owners, before = [], [], [], 0
    for example, row in zip(found.train, found.encoded, strict=True):
        spans = example.sentences or split_sentences(example.response)
        own = span_of_tokens(row.offsets, [(span.start, span.end) for span in spans], example.response)
        counts = np.bincount(own, minlength=len(spans))
        tokens.append(
            {
                "id": [example.id] * (row.n_tokens + 1),
                "index": [PROMPT, *range(row.n_tokens)],
                "sentence": [PROMPT, *own],
                "start": [0, *(start for start, _ in row.offsets)],
                "end": [0, *(end for _, end in row.offsets)],
            }
        )
        sentences.append(
            {
                "id": [example.id] * (len(spans) + 1),
                "index": [PROMPT, *range(len(spans))],
                "start": [0, *(span.start for span in spans)],
                "end": [0, *(span.end for span in spans)],
                "kind": [None, *(span.kind for span in spans)],
                "n_tokens": [0, *counts],
            }
        )
        owners.append(np.concatenate([[before], before + 1 + own]))
        before += len(spans) + 1
    return _Layout(_joined(tokens), _joined(sentences), np.concatenate(owners))


def _joined(parts: list[dict[str, list]]) -> pd.DataFrame:
    return pd.DataFrame({name: [v for part in parts for v in part[name]] for name in parts[0]})
