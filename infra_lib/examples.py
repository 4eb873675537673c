"""Examples: one prompt, one response, and what is needed to grade and describe them.

An :class:`Example` knows nothing of tokenizers or models. Everything that moves
between steps moves as a list of examples, stored as parquet (study results) or JSON
Lines (anybody's files).

>>> Example(id="m1", domain="math", prompt="2 + 2?", response="Therefore the answer is 4.",
...         difficulty=1, answer="4").domain
'math'
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from infra_lib.errors import DataError, shown


@dataclass(frozen=True)
class Sentence:
    """A sentence of a response: characters ``start`` (inclusive) to ``end`` (exclusive).

    Sentences of one response do not overlap and together cover it from 0 to its end
    (white space belongs to the sentence before it). ``kind`` is the generator's own
    label where there is one: setup, step, connector, check, alternative, mend, conclusion, program.
    """

    start: int
    end: int
    kind: str | None = None


@dataclass(frozen=True)
class Example:
    """One training, target or test example.

    Attributes
    ----------
    id
        Unique within a file.
    domain
        The group whose reasoning is attributed: ``math`` or ``code`` in the paper's setting.
    prompt, response
        Text shown to the model, and text it learns to write (loss on the response only).
    difficulty
        1 (easiest) to 5, or None where the source gives none.
    category
        A finer group within the domain (``symbolic``, ``conversational``, ``map``, …).
    answer
        Reference answer of a math problem, as text.
    tests
        Hidden tests of a code problem: JSON text, a list of ``{"args": [...], "expected": ...}``.
    question
        Canonical form of the question, equal for two examples that ask the same thing in other
        words; splits are disjoint by it.
    sentences
        Spans over ``response``; empty where the source gives none.
    system
        Text of the system turn, for models with a chat template.
    scoring
        Name of the official rule that grades it (:mod:`infra_lib.evaluate.official`); None: by ``tests``
        where there are any, else by ``answer``.
    date
        Day on which the problem was published, as ISO text (``2024-08-01``): a model trained before it
        cannot have read it. None where the source gives none.
    """

    id: str
    domain: str
    prompt: str
    response: str
    difficulty: int | None = None
    category: str | None = None
    answer: str | None = None
    tests: str | None = None
    question: str | None = None
    sentences: tuple[Sentence, ...] = field(default=())
    system: str | None = None
    scoring: str | None = None
    date: str | None = None


_REQUIRED = ("id", "domain", "prompt", "response")
_OPTIONAL = (
    "difficulty",
    "category",
    "answer",
    "tests",
    "question",
    "sentences",
    "system",
    "scoring",
    "date",
)


def to_frame(examples: Sequence[Example]) -> pd.DataFrame:
    """Return one row per example; sentence spans become JSON text in column ``sentences``."""
    rows = []
    for ex in examples:
        row = {f.name: getattr(ex, f.name) for f in fields(Example)}
        row["sentences"] = json.dumps([[s.start, s.end, s.kind] for s in ex.sentences])
        rows.append(row)
    frame = pd.DataFrame(rows, columns=[f.name for f in fields(Example)])
    frame["difficulty"] = frame["difficulty"].astype("Int64")
    return frame


def from_frame(frame: pd.DataFrame) -> list[Example]:
    """Invert :func:`to_frame`.

    Raises
    ------
    DataError
        For a table without the columns of an example, or a row with other things in them.
    """
    if missing := [name for name in _REQUIRED if name not in frame]:
        raise DataError("table of examples", f"misses {', '.join(missing)}")
    examples = []
    for number, row in enumerate(frame.to_dict("records"), start=1):
        try:
            examples.append(_from_row(row))
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError("table of examples", f"row cannot be read ({error})", number) from None
    return examples


def _from_row(row: Mapping[Any, Any]) -> Example:
    values: dict[str, Any] = {
        str(k): (None if not isinstance(v, str) and pd.isna(v) else v) for k, v in row.items()
    }
    spans = json.loads(values.pop("sentences", None) or "[]")
    if values.get("difficulty") is not None:
        values["difficulty"] = int(values["difficulty"])
    known = {f.name: values[f.name] for f in fields(Example) if f.name in values}
    if wrong := [name for name in _REQUIRED if not isinstance(known[name], str)]:
        raise TypeError(f"{wrong[0]} is {shown(known[wrong[0]])}; it must be text")
    return Example(**known, sentences=tuple(Sentence(*s) for s in spans))


def read_jsonl(path: str | Path) -> list[Example]:
    """Read examples from JSON Lines.

    Raises
    ------
    DataError
        Naming file and line: invalid UTF-8 or JSON, a missing key, a wrong type, an empty
        response, or an id that occurs twice.
    """
    examples, problems = scan_jsonl(path)
    if problems:
        raise problems[0]
    return examples


def scan_jsonl(path: str | Path) -> tuple[list[Example], list[DataError]]:
    """Read what can be read of a JSON Lines file: the good examples, and one error per bad line."""
    entries = [entry for _, entry in read_lines(path)]
    return (
        [entry for entry in entries if isinstance(entry, Example)],
        [entry for entry in entries if isinstance(entry, DataError)],
    )


def read_lines(path: str | Path) -> list[tuple[int, Example | DataError]]:
    """Return every filled line of a JSON Lines file: its number, and its example or what is wrong with it.

    Raises
    ------
    DataError
        Where the file is missing or holds no line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(path, "no such file; give a JSON Lines file of examples")
    entries: list[tuple[int, Example | DataError]] = []
    seen: set[str] = set()
    # Some editors begin a file with a byte order mark, which is no part of its first line.
    for number, raw in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            example = _parse_line(path, number, raw)
            if example.id in seen:
                raise DataError(path, f"id {shown(example.id)} occurs twice; ids must be unique", number)
        except DataError as problem:
            entries.append((number, problem))
        else:
            seen.add(example.id)
            entries.append((number, example))
    if not entries:
        raise DataError(path, "holds no example; each line is one JSON object")
    return entries


def _parse_line(path: Path, number: int, raw: bytes) -> Example:
    try:
        record = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_repetition)
    except UnicodeDecodeError as error:
        raise DataError(path, f"invalid UTF-8 at byte {error.start} of the line", number) from None
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits, too
        raise DataError(path, f"not a JSON object ({error})", number) from None
    if not isinstance(record, dict):
        raise DataError(path, "must be a JSON object with id, domain, prompt, response", number)
    if missing := [key for key in _REQUIRED if key not in record]:
        raise DataError(path, f"misses {', '.join(missing)} (needed: {', '.join(_REQUIRED)})", number)
    for key in (*_REQUIRED, *(key for key in _OPTIONAL if key not in ("difficulty", "sentences"))):
        value = record.get(key)
        if value is not None and not isinstance(value, str):
            raise DataError(path, f"{key} is {shown(value)}; it must be text", number)
        if key in _REQUIRED and value is None:
            raise DataError(path, f"{key} is null; it must be text", number)
        if not is_text(value or ""):
            raise DataError(path, f"{key} holds half a surrogate pair, which is no text", number)
    for key in ("id", "domain", "response"):
        if not record[key].strip():
            raise DataError(path, f"{key} is empty", number)
    difficulty = record.get("difficulty")
    if difficulty is not None and (type(difficulty) is not int or difficulty not in range(1, 6)):
        problem = f"difficulty is {shown(difficulty)}; it must be a whole number from 1 to 5"
        raise DataError(path, problem, number)
    if (day := record.get("date")) is not None and not _is_day(day):
        raise DataError(path, f"date is {shown(day)}; it must be a day such as 2024-08-01", number)
    known = {key: record[key] for key in (*_REQUIRED, *_OPTIONAL) if record.get(key) is not None}
    known["sentences"] = _parse_sentences(path, number, record)
    return Example(**known)


def _is_day(text: str) -> bool:
    """Return whether text is a day in ISO form, with hyphens."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing a key that occurs twice, since either could be meant."""
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {shown(twice)} occurs twice")
    return record


def _parse_sentences(path: Path, number: int, record: dict[str, Any]) -> tuple[Sentence, ...]:
    length = len(record["response"])
    spans = record.get("sentences") or ()
    if not isinstance(spans, list | tuple):
        raise DataError(path, f"sentences is {shown(spans)}; it must be a list of spans", number)
    sentences: list[Sentence] = []
    for span in spans:
        sentence = _parse_span(span)
        if sentence is None or sentence.end > length:
            problem = f"sentence span {shown(span)} does not lie in the response (0 to {length})"
            raise DataError(path, problem, number)
        if sentences and sentence.start < sentences[-1].end:
            problem = f"sentence span {shown(span)} begins before the one in front of it ends"
            raise DataError(path, problem, number)
        sentences.append(sentence)
    return tuple(sentences)


def _parse_span(span: object) -> Sentence | None:
    """Return a span given as an object or a list, or None for anything else."""
    try:
        sentence = Sentence(**span) if isinstance(span, dict) else Sentence(*span)  # type: ignore[misc]
    except TypeError:
        return None
    whole = type(sentence.start) is int and type(sentence.end) is int
    named = sentence.kind is None or (isinstance(sentence.kind, str) and is_text(sentence.kind))
    return sentence if whole and named and 0 <= sentence.start < sentence.end else None


def is_text(text: str) -> bool:
    """Return whether text can be written as UTF-8: no half of a surrogate pair stands alone in it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def to_record(example: Example) -> dict[str, Any]:
    """Return what a line of JSON Lines holds of an example: its fields without the empty ones."""
    return {k: v for k, v in asdict(example).items() if v is not None and v != ()}


def write_jsonl(path: str | Path, examples: Iterable[Example]) -> None:
    """Write examples as JSON Lines, leaving out fields that are empty."""
    lines = [json.dumps(to_record(ex), ensure_ascii=False) for ex in examples]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_disjoint(**splits: Sequence[Example]) -> None:
    """Raise where two splits share a question, or one split holds an id twice.

    Raises
    ------
    DataError
        Naming the splits and one shared question.
    """
    names = list(splits)
    questions = {name: {ex.question or ex.prompt for ex in splits[name]} for name in names}
    for i, first in enumerate(names):
        ids = Counter(ex.id for ex in splits[first])
        if twice := [key for key, count in ids.items() if count > 1]:
            raise DataError(first, f"id {twice[0]!r} occurs {ids[twice[0]]} times; ids must be unique")
        for second in names[i + 1 :]:
            if shared := questions[first] & questions[second]:
                raise DataError(
                    first, f"shares {len(shared)} questions with {second}, such as {min(shared)!r}"
                )
