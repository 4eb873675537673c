"""Read and check the two files of examples, naming file and line of whatever cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra_lib.errors import DataError
from infra_lib.examples import Example, read_lines
from infra_lib.models import Encoded, encode


@dataclass(frozen=True)
class Inputs:
    """Examples that can be used, in tokens, and what was left out.

    Attributes
    ----------
    train, encoded
        Training examples and their tokens, in the order of the file.
    targets
        Target name (domain) to its encoded correct responses.
    target_examples
        The same responses as text.
    skipped
        Errors of the examples that were left out.
    """

    train: list[Example]
    encoded: list[Encoded]
    targets: dict[str, list[Encoded]]
    target_examples: dict[str, list[Example]]
    skipped: list[DataError]


def read_inputs(
    train: Path,
    target: Path,
    tokenizer: Any,
    *,
    context: int | None,
    skip_bad: bool,
    max_tokens: int | None = None,
) -> Inputs:
    """Read both files and encode their examples.

    Parameters
    ----------
    context
        The model's longest sequence in tokens; None where it has no limit.
    skip_bad
        Collect problems instead of raising the first.
    max_tokens
        Cut sequences here; :attr:`infra_lib.models.Encoded.truncated` counts what was lost.

    Raises
    ------
    DataError
        Naming file, line and problem; also where no training example or no target is left.
    """
    skipped: list[DataError] = []
    targets: dict[str, list[Encoded]] = {}
    texts: dict[str, list[Example]] = {}
    rules = (context, max_tokens, skip_bad, skipped)
    for _, example, row in _usable(target, tokenizer, *rules):
        targets.setdefault(example.domain, []).append(row)
        texts.setdefault(example.domain, []).append(example)
    if not targets:
        raise DataError(
            target, f"leaves no target: none of its examples can be used{_first(skipped, target)}"
        )
    kept, encoded = [], []
    for number, example, row in _usable(train, tokenizer, *rules):
        if example.domain not in targets:
            problem = DataError(
                train,
                f"domain {example.domain!r} has no target: {target} has {', '.join(sorted(targets))}",
                number,
            )
            if not skip_bad:
                raise problem
            skipped.append(problem)
            continue
        kept.append(example)
        encoded.append(row)
    if not kept:
        raise DataError(train, f"leaves no training example that can be used{_first(skipped, train)}")
    return Inputs(kept, encoded, dict(sorted(targets.items())), dict(sorted(texts.items())), skipped)


def _first(skipped: Sequence[DataError], path: Path) -> str:
    """Return the first thing of a file that was skipped, as the end of a message."""
    own = [problem for problem in skipped if problem.path == path]
    return f"; the first of {len(own)} that were skipped: {own[0]}" if own else ""


def _usable(
    path: Path,
    tokenizer: Any,
    context: int | None,
    max_tokens: int | None,
    skip_bad: bool,
    skipped: list[DataError],
) -> Sequence[tuple[int, Example, Encoded]]:
    """Return (line, example, tokens) of the examples of a file that can be used."""
    found = []
    for number, entry in read_lines(path):
        try:
            if isinstance(entry, DataError):
                raise entry
            row = _encode(path, number, entry, tokenizer, context, max_tokens)
        except DataError as problem:
            if not skip_bad:
                raise
            skipped.append(problem)
        else:
            found.append((number, entry, row))
    return found


def _encode(
    path: Path, number: int, example: Example, tokenizer: Any, context: int | None, max_tokens: int | None
) -> Encoded:
    try:
        row = encode(tokenizer, example, max_tokens=max_tokens)
    except DataError:
        raise DataError(path, f"example {example.id!r} has no response token to predict", number) from None
    except Exception as error:
        # Chat templates and tokenizers run code of their makers, and raise what they like.
        reason = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            path, f"example {example.id!r} cannot be put in tokens: {type(error).__name__}: {reason}", number
        ) from error
    if context is not None and len(row.input_ids) > context:
        raise DataError(
            path,
            f"example {example.id!r} has {len(row.input_ids)} tokens, over the model's context of {context}",
            number,
        )
    return row
