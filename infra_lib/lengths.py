"""What is lost where responses are longer than the context: counted before anything is trained or scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from tqdm import tqdm

from infra_lib.errors import DataError
from infra_lib.examples import Example
from infra_lib.models import Encoded, encode


def encode_within(
    tokenizer: Any,
    examples: Sequence[Example],
    max_tokens: int | None,
    *,
    end_token: bool = True,
    chat_template: bool | None = None,
    progress: bool = False,
) -> tuple[list[Encoded], list[str]]:
    """Encode examples, cut at ``max_tokens`` (None cuts nothing).

    Returns
    -------
    encoded
        In order, without those of which nothing is left.
    lost
        Ids of examples whose prompt alone fills the context.
    """
    encoded, lost = [], []
    for example in tqdm(examples, desc="encoding", unit="example", disable=not progress):
        try:
            row = encode(
                tokenizer, example, end_token=end_token, chat_template=chat_template, max_tokens=max_tokens
            )
        except DataError:
            lost.append(example.id)
        else:
            encoded.append(row)
    return encoded, lost


def cut_report(encoded: Sequence[Encoded], examples: Sequence[Example]) -> pd.DataFrame:
    """Return what was cut at the context's end, by domain and difficulty.

    Parameters
    ----------
    encoded
        What :func:`infra_lib.models.encode` gave, each with the response tokens that it lost.
    examples
        At least those that were encoded.

    Returns
    -------
    pandas.DataFrame
        One row per domain and difficulty (``none`` where there is none), then one per domain with
        difficulty ``all``, then ``all``/``all``. Columns: domain, difficulty (text), examples, cut
        (examples that lost tokens), tokens (of the responses, whole), lost (tokens), cut_share
        (cut/examples), lost_share (lost/tokens). A lost end token counts as a token.

    Raises
    ------
    DataError
        For an encoded id that no example has.
    """
    by_id = {example.id: example for example in examples}
    if unknown := [row.id for row in encoded if row.id not in by_id]:
        raise DataError("encoded", f"holds {unknown[0]!r}, which is not among the examples")
    frame = pd.DataFrame(
        {
            "domain": [by_id[row.id].domain for row in encoded],
            "difficulty": [_label(by_id[row.id].difficulty) for row in encoded],
            "examples": 1,
            "cut": [int(row.truncated > 0) for row in encoded],
            "tokens": [row.n_tokens + row.truncated for row in encoded],
            "lost": [row.truncated for row in encoded],
        }
    )
    counts = ["examples", "cut", "tokens", "lost"]
    fine = frame.groupby(["domain", "difficulty"], as_index=False)[counts].sum()
    domains = frame.groupby("domain", as_index=False)[counts].sum().assign(difficulty="all")
    whole = pd.DataFrame([{"domain": "all", "difficulty": "all", **frame[counts].sum()}])
    table = pd.concat([fine, domains, whole], ignore_index=True)
    table["cut_share"] = table["cut"] / table["examples"]
    table["lost_share"] = table["lost"] / table["tokens"]
    return table[["domain", "difficulty", *counts, "cut_share", "lost_share"]]


def _label(difficulty: int | None) -> str:
    return "none" if difficulty is None else str(difficulty)
