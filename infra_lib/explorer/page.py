r"""What the explorer's page loads: one index, one file to search in, and shards of text and token scores.

Each file is a script that hands JSON to ``infraExplorer``, so that a page opened from disk can load it
too, where browsers allow no requests for data. Inside are ASCII and no ``<``, whatever the texts hold; text
has its invisible characters named (:func:`infra_lib.markup.visible`), and the page shows it as text.

Token scores are whole numbers times a scale, one for each example, pair of method and target, and
reading. With the largest score of an example M and :data:`STEPS` = 9999, a shown score is off by at most
M / (2 · 9999), give or take the scale's own rounding in its sixth digit; scores of sentences and examples
are not made from these but rounded to six digits themselves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from infra_lib.examples import Example, from_frame
from infra_lib.explorer.tables import COLUMNS, READINGS
from infra_lib.files import write_text
from infra_lib.markup import visible
from infra_lib.reading import load_json, load_table
from infra_lib.style import name_of

STAGE = "08_explorer"
FOLDER = "explorer"
"""Folder of the page's files in the book's results."""

FORMAT = 1
"""Version of the files; the page refuses others."""

STEPS = 9999
"""Whole numbers that stand for scores reach from −9999 to 9999."""

SHARD = 10
"""Examples in a shard."""

SEARCHED = 4000
"""Characters of a prompt and of a response that are searched."""

END_AT = 0.99
"""Colour scales end at this quantile of the sizes of scores."""

METHOD_NAMES = {
    "ekfac": ("EK-FAC influence", "nats of the target per unit of the example's weight"),
    "kfac": ("K-FAC influence", "nats of the target per unit of the example's weight"),
    "graddot": ("gradient dot product", "nats of the target per unit of learning rate"),
    "gradcos": ("gradient cosine", "cosine, without unit: an example's lies between −1 and 1"),
}
"""How the page names a method, and the units of its scores."""


def write_explorer(results: Path) -> Path:
    """Write the page's files from the tables of a run.

    Parameters
    ----------
    results
        The book's copies of a run's results.

    Returns
    -------
    Path
        Folder ``explorer`` in there, with ``index.js``, ``search.js`` and ``shard-000.js`` …
    """
    tables = {
        name: load_table(results / "data" / STAGE / f"{name}.parquet")
        for name in ("examples", "sentences", "tokens")
    }
    train = from_frame(load_table(results / "data" / "01_data" / "train.parquet"))
    about = load_json(results / "data" / STAGE / "about.json")
    for name, text in page_files(train, **tables, about=about).items():
        write_text(results / FOLDER / f"{name}.js", text)
    return results / FOLDER


def page_files(
    train: Sequence[Example],
    examples: pd.DataFrame,
    sentences: pd.DataFrame,
    tokens: pd.DataFrame,
    about: dict[str, Any],
    *,
    shard: int = SHARD,
) -> dict[str, str]:
    """Return the page's files: name without ending to text.

    Parameters
    ----------
    train
        Examples, among them all that have scores.
    examples, sentences, tokens
        As :mod:`infra_lib.explorer.tables` makes them.
    about
        ``targets``: target name to the number of its correct responses; the rest is shown as it is.
    """
    pairs = list(examples[COLUMNS].drop_duplicates().itertuples(index=False, name=None))
    ids = examples["id"].astype(str).to_numpy()[: len(examples) // len(pairs)]
    scores = _blocks(examples, "score", len(pairs))
    by_id = {example.id: example for example in train}
    # The first view shows both ends of the first pair's ranking: in this order it needs two shards.
    order = np.argsort(-scores[0], kind="stable")
    known = [by_id[name] for name in ids]
    rows = _rows(known, sentences, tokens, len(pairs))
    index = {
        "format": FORMAT,
        "about": {key: visible(value) for key, value in about.items() if key != "targets"},
        "targets": [
            {"key": target, "name": visible(name_of(target)), "responses": about["targets"][target]}
            for target in dict.fromkeys(target for _, target in pairs)
        ],
        "methods": [_method(method) for method in dict.fromkeys(method for method, _ in pairs)],
        "pairs": [list(pair) for pair in pairs],
        "readings": list(READINGS),
        "ends": _ends(scores, sentences, tokens, len(pairs)),
        "steps": STEPS,
        "shard": shard,
        "searched": SEARCHED,
        "cut": sum(max(len(ex.prompt), len(ex.response)) > SEARCHED for ex in known),
        "examples": [_entry(known[k], scores[:, k], int(rows[k]["n"])) for k in order],
    }
    files = {"index": index, "search": [_searched(known[k]) for k in order]}
    for number, start in enumerate(range(0, len(order), shard)):
        files[f"shard-{number:03d}"] = [rows[k] for k in order[start : start + shard]]
    return {name: _script(name, value) for name, value in files.items()}


def _script(name: str, value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f'infraExplorer("{name}",{text.replace("<", chr(92) + "u003c")});\n'


def _method(method: str) -> dict[str, str]:
    name, units = METHOD_NAMES[method]
    return {"key": method, "name": name, "units": units}


def _blocks(frame: pd.DataFrame, column: str, pairs: int) -> np.ndarray:
    """Return a column as an array [pairs, rows of a block]."""
    return frame[column].to_numpy(dtype=np.float64).reshape(pairs, -1)


def _entry(example: Example, scores: np.ndarray, n_tokens: int) -> list[Any]:
    """Return id, domain, difficulty, category, tokens, first words, and the score of each pair."""
    words = visible(" ".join(example.prompt.split()))
    return [
        visible(example.id),
        visible(example.domain),
        example.difficulty,
        visible(example.category or ""),
        n_tokens,
        words if len(words) <= 90 else words[:89].rstrip() + "…",
        [rounded(value) for value in scores],
    ]


def _searched(example: Example) -> str:
    parts = (example.id, example.prompt[:SEARCHED], example.response[:SEARCHED])
    return visible("\n".join(parts))


def _ends(
    scores: np.ndarray, sentences: pd.DataFrame, tokens: pd.DataFrame, pairs: int
) -> dict[str, list[float]]:
    """Return the ends of the colour scales: per level, and reading where it has two, one for each pair.

    The prompt's share of the position reading is no token's and does not count.
    """
    values = {"example": scores}
    for reading in READINGS:
        for level, frame in (("sentence", sentences), ("token", tokens)):
            values[f"{level}-{reading}"] = _blocks(frame[frame["index"] >= 0], reading, pairs)
    ends = {key: np.quantile(np.abs(block), END_AT, axis=1) for key, block in values.items()}
    sizes = {key: np.abs(block).max(axis=1) for key, block in values.items()}
    return {
        key: [rounded(e or m or 1.0, 2) for e, m in zip(ends[key], sizes[key], strict=True)] for key in values
    }


def rounded(value: float, digits: int = 6) -> float:
    """Return a number rounded to so many significant digits."""
    return float(f"{value:.{digits}g}")


# --- Shards ------------------------------------------------------------------------------


def _rows(
    known: Sequence[Example], sentences: pd.DataFrame, tokens: pd.DataFrame, pairs: int
) -> list[dict[str, Any]]:
    """Return what a shard holds of each example.

    ``p`` prompt, ``t`` pieces of the response, one for each token, ``r`` what stands behind the last token,
    ``s`` first token of each sentence that has any, ``k`` the sentences' kinds, ``n`` number of tokens; per
    reading, ``e`` the sentences' scores and ``q`` scale and whole numbers of the tokens, one for each pair
    (or, for the same whole numbers at another scale, the place of the pair that has them);
    ``h`` the prompt's share of the position reading.
    """
    block = len(tokens) // pairs, len(sentences) // pairs
    first = tokens.iloc[: block[0]]
    head = sentences.iloc[: block[1]]
    values = {r: (_blocks(tokens, r, pairs), _blocks(sentences, r, pairs)) for r in READINGS}
    # An example begins with its prompt's row, in both tables.
    cuts = [np.append(np.flatnonzero(frame["index"].to_numpy() < 0), len(frame)) for frame in (first, head)]
    starts, ends = first["start"].to_numpy(), first["end"].to_numpy()
    owners, kinds = first["sentence"].to_numpy(), head["kind"].to_numpy()
    rows = []
    for example, (a, b), (c, d) in zip(known, pairwise(cuts[0]), pairwise(cuts[1]), strict=True):
        pieces, rest = cut_pieces(example.response, starts[a + 1 : b], ends[a + 1 : b])
        used, begins = np.unique(owners[a + 1 : b], return_index=True)
        rows.append(
            {
                "p": visible(example.prompt),
                "t": [visible(piece) for piece in pieces],
                "r": visible(rest),
                "s": begins.tolist(),
                "k": [visible(kinds[c + 1 + j] or "") for j in used],
                "n": int(b - a - 1),
                "e": {
                    r: [[rounded(v) for v in part[c + 1 : d][used]] for part in values[r][1]]
                    for r in READINGS
                },
                "q": {r: _once([quantised(part[a + 1 : b]) for part in values[r][0]]) for r in READINGS},
                "h": [rounded(v) for v in values["position"][0][:, a]],
            }
        )
    return rows


def cut_pieces(text: str, starts: np.ndarray, ends: np.ndarray) -> tuple[list[str], str]:
    """Return a text cut into one piece per token, and what stands behind the last token.

    A piece reaches to where the next token starts, so that the pieces and the rest are the whole text. A
    token that shares its character with the next one (a part of it in UTF-8) and an end token are empty.
    """
    places = [0, *(int(place) for place in starts[1:]), int(ends[-1])]
    return [text[a:b] for a, b in pairwise(places)], text[places[-1] :]


def quantised(values: np.ndarray) -> list[Any]:
    """Return scores as a scale and whole numbers: ``[scale, [n, …]]``, each score close to scale · n."""
    scale = rounded(float(np.abs(values).max(initial=0)) / STEPS)
    if not scale:
        return [0.0, [0] * len(values)]
    return [scale, np.rint(values / scale).astype(int).tolist()]


def _once(columns: list[list[Any]]) -> list[list[Any]]:
    """Put the place of their first column for whole numbers that occur again, as a cosine's do."""
    first: dict[tuple[int, ...], int] = {}
    found = [first.setdefault(tuple(whole), k) for k, (_, whole) in enumerate(columns)]
    return [[scale, whole if found[k] == k else found[k]] for k, (scale, whole) in enumerate(columns)]
