"""Files of results: tables with what their numbers mean in the schema, and ``provenance.json``.

``examples.parquet``
    id, target, score, rank (1 = most helpful), n_tokens.
``sentences.parquet``
    id, index, start, end (characters of the response), target, score.
``tokens.parquet``
    id, position, token (its text), start, end, target, score.
``self_influence.parquet``
    id, self_influence, n_tokens.

An example's score is the sum of its sentences' and of its tokens', unless it is normalised by length
(:mod:`infra_lib.attribute.normalise`). In the position reading the prompt's positions carry gradient
too; their share has ``index`` and ``position`` −1 and an empty span, so that the sums still hold.

``provenance.json`` lists the checksums of all of them and carries its own, so that ``infra verify --folder``
and whatever reads the tables later find a changed byte. A later run into the same folder that asks
the same at other levels keeps what is recorded of the tables that it does not write.

The schema of each table holds, under the key ``infra``, JSON that says how to read its numbers
(:func:`meaning`): ``json.loads(pyarrow.parquet.read_schema(path).metadata[b"infra"])``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from infra_lib.attribute.inputs import Inputs
from infra_lib.attribute.normalise import SUMS_HOLD, by_length
from infra_lib.attribute.options import CURVATURE, GRADIENT, Options
from infra_lib.attribute.score import Scores
from infra_lib.attributes import score_table
from infra_lib.checksums import damage
from infra_lib.errors import DataError
from infra_lib.examples import Example, Sentence
from infra_lib.files import is_sealed, read_sealed, replacing, write_text
from infra_lib.influence import response_positions, sum_over_spans
from infra_lib.models import Encoded
from infra_lib.sentences import split_sentences

_PLAIN_UNITS = {
    "gradcos": "none: a cosine",
    "trak": "TRAK's own",
    "loss": "nats per response token",
    "length": "response tokens",
    "bm25": "BM25",
    "random": "none: standard normal numbers",
}
_PER = {
    "none": "",
    "length": ", per response token",
    "sqrt_length": ", per root of the number of response tokens",
    "self": ", per root of the example's self-influence",
}


_TOKEN = {
    "loss": "a token's own loss term",
    "position": "the gradient's part that arises where the token is predicted, at the position before it",
}
"""What a token's score is of, in each reading."""


def _unrefined(options: Options) -> bool:
    return bool(options.refine) and (options.self_influence or options.normalise == "self")


def meaning(options: Options) -> dict[str, Any]:
    """Return how to read the scores: method, reading, damping, normalisation, units, sign, sums.

    What a method does not have (a reading, a damping) is None.
    """
    units = _PLAIN_UNITS.get(
        options.method, "nats of the target per unit of weight in a loss that is a mean over examples"
    )
    signs = {"loss": "a higher loss", "length": "a longer response", "random": "nothing"}
    sign = "positive: up-weighting the example raises the target"
    if options.method in signs:
        sign = f"higher: {signs[options.method]}"
    elif options.method == "bm25":
        sign = "higher: more of the target's words"
    return {
        "method": options.method,
        "reading": options.reading if options.method in GRADIENT else None,
        "token": _TOKEN[options.reading] if options.method in GRADIENT else None,
        "damping": options.damping if options.method in CURVATURE else None,
        "normalise": options.normalise,
        "self_influence": "by ekfac, not refined" if _unrefined(options) else None,
        "units": units + _PER[options.normalise],
        "sign": sign,
        "sums": (
            "an example's score is the sum of its sentences' and of its tokens'"
            if options.normalise in SUMS_HOLD
            else "sums do not hold: each score is relative to its own number of tokens"
        )
        if options.method in GRADIENT
        else None,
    }


def recorded_files(folder: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests, by name, of files of an earlier attribution that still hold.

    They do where the same was asked of the same examples and weights, but for the levels. Empty where there
    is no record that can be trusted: a first run, or a torn one.

    Parameters
    ----------
    record
        What is about to be recorded: ``options``, ``inputs`` and ``weights`` count.
    """
    try:
        found = read_sealed(folder / "provenance.json")
    except (OSError, DataError):
        return {}

    def asked(of: Mapping[str, Any]) -> Any:
        apart = ("levels", "out", "batch_tokens", "memory")
        options = {key: value for key, value in of.get("options", {}).items() if key not in apart}
        return json.loads(json.dumps([options, of.get("inputs"), of.get("weights")]))

    if asked(found) != asked(record):
        return {}
    return {name: digest for name, digest in found.get("files", {}).items() if (folder / name).is_file()}


def check_table(path: Path) -> None:
    """Raise for a table of scores that is not the one that the attribution beside it wrote.

    A table passes where nothing was recorded of it: it lies alone, without ``provenance.json``, or beside one
    of a version that kept no checksums.

    Raises
    ------
    DataError
        For a changed or torn table, or record, or a table of another run than the record's.
    """
    record = path.with_name("provenance.json")
    if not record.is_file() or not is_sealed(record):
        return
    digests = read_sealed(record).get("files", {})
    if path.name not in digests:
        raise DataError(path, "is of another run than provenance.json beside it; run infra attribute again")
    if damage(path.parent, {path.name: digests[path.name]}):
        raise DataError(path, "is torn, or was changed since it was written; run infra attribute again")


def write_tables(options: Options, tokenizer: Any, inputs: Inputs, scores: Scores) -> list[Path]:
    """Write the tables that were asked for, each whole or not at all, and the list of what was skipped.

    Returns their paths.
    """
    written: list[Path] = []

    def keep(name: str, frame: pd.DataFrame, read_as: Mapping[str, Any]) -> None:
        _to_parquet(options.out / name, frame, read_as)
        written.append(options.out / name)

    counts = [row.n_tokens for row in inputs.encoded]
    read_as = meaning(options)
    if "example" in options.levels:
        values = {
            target: by_length(sums, counts, options.normalise) for target, sums in scores.examples.items()
        }
        keep("examples.parquet", score_table(values, inputs.train, counts), read_as)
    if scores.tokens is not None and "sentence" in options.levels:
        table = _sentence_table(inputs, scores.tokens, options.normalise)
        keep("sentences.parquet", table, read_as)
    if scores.tokens is not None and "token" in options.levels:
        keep("tokens.parquet", _token_table(tokenizer, inputs, scores.tokens), read_as)
    if scores.self_influence is not None:
        ids = [example.id for example in inputs.train]
        table = pd.DataFrame({"id": ids, "self_influence": scores.self_influence, "n_tokens": counts})
        changed = {
            "units": "nats of the example itself per unit of weight",
            "normalise": "none",
            "sums": None,
        }
        keep("self_influence.parquet", table, read_as | changed)
    if options.skip_bad:
        lines = [{"file": str(p.path), "line": p.line, "problem": p.problem} for p in inputs.skipped]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(options.out / "skipped.jsonl", text)
        written.append(options.out / "skipped.jsonl")
    return written


def _to_parquet(path: Path, frame: pd.DataFrame, read_as: Mapping[str, Any]) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"infra": json.dumps(read_as, sort_keys=True).encode()}
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def _split(row: Encoded, values: np.ndarray) -> tuple[float | None, np.ndarray]:
    """Return the prompt's share (None in the loss reading) and the values of the response's tokens."""
    return (None, values) if len(values) == row.n_tokens else response_positions(row, values)


def _sentence_table(inputs: Inputs, tokens: Mapping[str, list[np.ndarray]], normalise: str) -> pd.DataFrame:
    parts = []
    for target, rows in tokens.items():
        for example, row, values in zip(inputs.train, inputs.encoded, rows, strict=True):
            share, own = _split(row, values)
            spans = _spans(example)
            bounds = [(s.start, s.end) for s in spans]
            sums = sum_over_spans(own.astype(np.float64), row.offsets, bounds, example.response)
            counts = sum_over_spans(np.ones(row.n_tokens), row.offsets, bounds, example.response)
            part = pd.DataFrame(
                {
                    "id": example.id,
                    "index": range(len(spans)),
                    "start": [s.start for s in spans],
                    "end": [s.end for s in spans],
                    "target": target,
                    "score": by_length(sums, counts, normalise),
                }
            )
            if share is not None:
                left = by_length(np.array([share]), [len(values) - row.n_tokens], normalise)
                part.loc[len(part)] = [example.id, -1, 0, 0, target, float(left[0])]
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _spans(example: Example) -> tuple[Sentence, ...]:
    return example.sentences or split_sentences(example.response)


def _token_table(tokenizer: Any, inputs: Inputs, tokens: Mapping[str, list[np.ndarray]]) -> pd.DataFrame:
    parts = []
    for target, rows in tokens.items():
        for example, row, values in zip(inputs.train, inputs.encoded, rows, strict=True):
            share, own = _split(row, values)
            where = row.loss_mask.nonzero()[:, 0].tolist()
            part = pd.DataFrame(
                {
                    "id": example.id,
                    "position": where,
                    "token": [tokenizer.decode([int(row.input_ids[t])]) for t in where],
                    "start": [start for start, _ in row.offsets],
                    "end": [end for _, end in row.offsets],
                    "target": target,
                    "score": own.astype(np.float64),
                }
            )
            if share is not None:
                part.loc[len(part)] = [example.id, -1, "", 0, 0, target, share]
            parts.append(part)
    return pd.concat(parts, ignore_index=True)
