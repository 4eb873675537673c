"""Mean influence of kinds of sentences and classes of tokens, with intervals over models and examples.

The score of a piece of text (a sentence, a token) is divided by the standard deviation of all such pieces'
scores under its model, target and reading; a kind's mean is the mean over its pieces. Pieces of one example
are not independent, so that intervals resample whole examples, and models: a mean is a ratio of two
sums over examples, and each draw computes it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from infra_lib.errors import NumericalError
from infra_lib.examples import Example
from infra_lib.influence import span_of_tokens
from infra_lib.kinds.sentences import EXPLORATORY, KINDS, with_kinds
from infra_lib.kinds.tokens import CLASSES, token_classes
from infra_lib.models import Encoded
from infra_lib.statistics import crossed_ratios, percentile_interval

READINGS = ("loss", "position")
"""Readings of a token's score: of its loss term, and of the position that predicts it."""

TokenScores = Mapping[str, Sequence[np.ndarray]]
"""Target to one array of scores per example, one for each response token."""


def sentence_sums(train: Sequence[Example], encoded: Sequence[Encoded], scores: TokenScores) -> pd.DataFrame:
    """Return standardised scores of sentences, summed over each example's sentences of a kind.

    Parameters
    ----------
    train, encoded
        The examples, and the same in tokens.
    scores
        Scores of response tokens; a sentence's is the sum of its tokens'.

    Returns
    -------
    pandas.DataFrame
        target, id, domain, kind, total, count.
    """
    labels, owners = [], []
    for example, row in zip(train, encoded, strict=True):
        found = with_kinds(example)
        spans = [(span.start, span.end) for span in found]
        # Sentences that were cut off have no token and no score: they are not there.
        present, owner = np.unique(span_of_tokens(row.offsets, spans, example.response), return_inverse=True)
        labels.append(np.array([KINDS.index(str(found[k].kind)) for k in present]))
        owners.append(owner)
    values = {
        target: [
            np.bincount(owner, weights=row, minlength=len(own))
            for row, owner, own in zip(rows, owners, labels, strict=True)
        ]
        for target, rows in scores.items()
    }
    return _sums(train, values, labels, KINDS, "kind")


def classes_of(train: Sequence[Example], encoded: Sequence[Encoded]) -> list[np.ndarray]:
    """Return the class of every response token, one array of indices into ``CLASSES`` per example."""
    return [token_classes(row.offsets, ex.response) for ex, row in zip(train, encoded, strict=True)]


def token_sums(train: Sequence[Example], classes: Sequence[np.ndarray], scores: TokenScores) -> pd.DataFrame:
    """Return standardised scores of tokens, summed over each example's tokens of a class.

    Parameters
    ----------
    classes
        As :func:`classes_of` gives them.

    Returns
    -------
    pandas.DataFrame
        target, id, domain, class, total, count.
    """
    return _sums(train, scores, classes, CLASSES, "class")


def _sums(
    train: Sequence[Example],
    values: TokenScores,
    labels: Sequence[np.ndarray],
    names: Sequence[str],
    column: str,
) -> pd.DataFrame:
    counts = np.array([np.bincount(own, minlength=len(names)) for own in labels])  # [examples, kinds]
    examples, kinds = (index.tolist() for index in counts.nonzero())
    frames = []
    for target, rows in values.items():
        deviation = float(np.concatenate(rows).std(ddof=1))
        if not deviation > 0:
            raise NumericalError(f"all scores on {target} are equal; nothing can be ranked")
        totals = np.array(
            [
                np.bincount(own, weights=row, minlength=len(names))
                for own, row in zip(labels, rows, strict=True)
            ]
        )
        frames.append(
            pd.DataFrame(
                {
                    "target": target,
                    "id": [train[k].id for k in examples],
                    "domain": [train[k].domain for k in examples],
                    column: [names[k] for k in kinds],
                    "total": totals[examples, kinds] / deviation,
                    "count": counts[examples, kinds],
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def means(
    sums: pd.DataFrame, column: str, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Return each kind's mean score per piece, and how far it is from that of all other pieces.

    Parameters
    ----------
    sums
        Columns base_seed, target, id, domain, ``column``, total, count, and ``reading`` where there are
        several.
    column
        ``kind`` or ``class``.

    Returns
    -------
    pandas.DataFrame
        target, domain (of the training examples), reading (where given), ``column``, mean, low, high,
        difference, difference_low, difference_high (from the mean of all other pieces of the domain's
        examples), runs (models), n (examples), pieces (in one model's training set).
    """
    by = ["target", "domain", *(["reading"] if "reading" in sums else [])]
    rows = []
    for group, part in sums.groupby(by, sort=True):
        kinds = _in_order(part[column])
        ids = list(dict.fromkeys(part["id"]))
        own = {name: _cube(part, column, kinds, ids, name) for name in ("total", "count")}
        # First each kind by itself, then all others beside each.
        both = [np.concatenate([cube, cube.sum(1, keepdims=True) - cube], 1) for cube in own.values()]
        point, draws = crossed_ratios(*both, samples=samples, seed=seed)
        apart = point[: len(kinds)] - point[len(kinds) :]
        drawn_apart = draws[:, : len(kinds)] - draws[:, len(kinds) :]
        for k, kind in enumerate(kinds):
            low, high = percentile_interval(draws[:, k], confidence)
            difference_low, difference_high = percentile_interval(drawn_apart[:, k], confidence)
            rows.append(
                dict(zip(by, group, strict=True))
                | {
                    column: kind,
                    "mean": float(point[k]),
                    "low": low,
                    "high": high,
                    "difference": float(apart[k]),
                    "difference_low": difference_low,
                    "difference_high": difference_high,
                    "runs": part["base_seed"].nunique(),
                    "n": int((own["count"][0, k] > 0).sum()),
                    "pieces": int(own["count"][0, k].sum()),
                }
            )
    return pd.DataFrame(rows)


def _in_order(names: pd.Series) -> list[str]:
    """Return the names that occur: known kinds and classes in the order of tables, then others."""
    known, found = [*KINDS, *CLASSES], set(names)
    return [name for name in known if name in found] + sorted(found - set(known))


def _cube(part: pd.DataFrame, column: str, kinds: list[str], ids: list[str], value: str) -> np.ndarray:
    """Return sums as an array [models, kinds, examples]; where an example has none, zero."""
    wide = part.pivot_table(index=["base_seed", column], columns="id", values=value, fill_value=0)
    models = sorted(part["base_seed"].unique())
    return np.stack([wide.loc[model].reindex(kinds, fill_value=0)[ids].to_numpy(float) for model in models])


def exploratory(sums: pd.DataFrame) -> pd.DataFrame:
    """Return sums of sentences with all exploratory kinds under one name, ``exploratory``."""
    kind = sums["kind"].where(~sums["kind"].isin(EXPLORATORY), "exploratory")
    by = [name for name in sums.columns if name not in ("kind", "total", "count")]
    return sums.assign(kind=kind).groupby([*by, "kind"], sort=False)[["total", "count"]].sum().reset_index()


def token_texts(
    train: Sequence[Example],
    encoded: Sequence[Encoded],
    classes: Sequence[np.ndarray],
    scores: TokenScores,
) -> pd.DataFrame:
    """Return the standardised scores of each token text, summed, with how often it occurs.

    Parameters
    ----------
    classes
        As :func:`classes_of` gives them.

    Returns
    -------
    pandas.DataFrame
        target, domain, class, token, total, count; a text of two classes has two rows.
    """
    cells = [
        (example.domain, CLASSES[label], "(end)" if CLASSES[label] == "end" else example.response[start:end])
        for example, row, own in zip(train, encoded, classes, strict=True)
        for (start, end), label in zip(row.offsets, own, strict=True)
    ]
    layout = pd.DataFrame(cells, columns=["domain", "class", "token"])
    frames = []
    for target, rows in scores.items():
        values = np.concatenate(rows)
        frame = layout.assign(z=values / values.std(ddof=1))
        found = frame.groupby(["domain", "class", "token"])["z"].agg(total="sum", count="size")
        frames.append(found.reset_index().assign(target=target))
    return pd.concat(frames, ignore_index=True)


def top_tokens(texts: pd.DataFrame, *, least: int = 20) -> pd.DataFrame:
    """Return each token text's mean standardised score over models.

    Parameters
    ----------
    texts
        Columns base_seed, reading, target, domain, class, token, total, count.
    least
        Texts that occur less often in a training set are left out: their means say little.

    Returns
    -------
    pandas.DataFrame
        reading, target, domain, class, token, mean, count (in one model's training set).
    """
    by = ["reading", "target", "domain", "class", "token"]
    found = texts.groupby(by, sort=True).agg(
        total=("total", "sum"), every=("count", "sum"), count=("count", "max")
    )
    found["mean"] = found.pop("total") / found.pop("every")
    return found[found["count"] >= least].reset_index()[[*by, "mean", "count"]]


def from_others(frame: pd.DataFrame) -> pd.DataFrame:
    """Return how far each kind is from all other pieces, as effects: difference, low, high, runs, n."""
    ends = {"difference_low": "low", "difference_high": "high"}
    return frame.drop(columns=["mean", "low", "high", "pieces"]).rename(columns=ends)
