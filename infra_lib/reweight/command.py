"""``infra reweight``: the training file of an arm, from anybody's examples.

Every line of the file is a training example with its ``"weight"``, as ``infra finetune --train`` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from infra_lib.attribute.write import check_table
from infra_lib.errors import DataError, ParameterError
from infra_lib.examples import Example, read_jsonl, to_record
from infra_lib.files import write_text
from infra_lib.models import count_response_tokens, load_tokenizer
from infra_lib.reweight.arms import ARMS, Arm, build_arm
from infra_lib.reweight.guided import GUIDED, guided_arm

SCORES = "examples.parquet"


@dataclass(frozen=True)
class ReweightOptions:
    """What ``infra reweight`` is asked for.

    Attributes
    ----------
    train, pool
        JSON Lines files: the uniform training set, and other problems to take replacements from.
    out
        File to write. An arm's file is made again by the same command, so an existing one is replaced
        only with ``overwrite``.
    arm
        One of :data:`infra_lib.reweight.ARMS`, or ``influence``.
    scores
        Folder that ``infra attribute`` wrote, or its ``examples.parquet``; for arm ``influence``.
    targets
        Targets of those scores that count, by name; all by default.
    tokenizer
        Model whose tokens are counted; needed where ``match`` is ``tokens``.

    The other attributes are those of :func:`infra_lib.reweight.build_arm` and
    :func:`infra_lib.reweight.guided_arm`.
    """

    train: Path
    out: Path
    arm: str = "flip"
    pool: Path | None = None
    scores: Path | None = None
    targets: tuple[str, ...] = ()
    easy: tuple[int, ...] = (1, 2)
    hard: tuple[int, ...] = (4, 5)
    mode: str = "swap"
    match: str = "examples"
    swap_fraction: float = 1.0
    ratio: float = 4.0
    strength: float = 0.5
    tokenizer: str | None = None
    seed: int = 0
    overwrite: bool = False


def levels(option: str, text: str) -> tuple[int, ...]:
    """Read difficulties such as ``1,2``.

    Raises
    ------
    ParameterError
        Naming the option, for anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part in {"1", "2", "3", "4", "5"} for part in parts):
        raise ParameterError(option, text, "difficulties from 1 to 5, such as 1,2")
    return tuple(map(int, parts))


def reweight_files(options: ReweightOptions) -> pd.DataFrame:
    """Write the arm's training file and return what is in it.

    Returns
    -------
    pandas.DataFrame
        One row per domain and difficulty (0: none given): arm, domain, difficulty, examples, mean_weight,
        and tokens (of responses) where a tokenizer was named.

    Raises
    ------
    ParameterError, DataError, ModelError
        Naming the option, the file and line, or the model; nothing is written then.
    """
    _check(options)
    train = read_jsonl(options.train)
    pool = read_jsonl(options.pool) if options.pool else []
    counts: Mapping[str, int] | None = None
    if options.tokenizer:
        counts = count_response_tokens(load_tokenizer(options.tokenizer), [*train, *pool])
    arm = _guided(options, train) if options.arm == GUIDED else _by_difficulty(options, train, pool, counts)
    lines = [
        json.dumps({**to_record(example), "weight": weight}, ensure_ascii=False)
        for example, weight in zip(arm.examples, arm.weights, strict=True)
    ]
    write_text(options.out, "\n".join(lines) + "\n")
    table = pd.DataFrame(arm.describe(lambda example: counts[example.id] if counts else 0))
    return table if counts else table.drop(columns="tokens")


def _check(options: ReweightOptions) -> None:
    guided = options.arm == GUIDED
    if not guided and options.arm not in ARMS:
        raise ParameterError("--arm", options.arm, "one of " + ", ".join([*ARMS, GUIDED]))
    if guided and options.scores is None:
        raise ParameterError("--scores", None, "a folder that infra attribute wrote, for arm influence")
    if not guided and options.scores is not None:
        raise ParameterError("--scores", str(options.scores), "left out: only arm influence reads it")
    if guided and (options.pool is not None or options.match != "examples"):
        raise ParameterError("--arm", GUIDED, "without --pool and --match: it weighs and swaps nothing")
    if not guided and options.mode == "weight" and options.match == "tokens":
        raise ParameterError("--match", "tokens", "examples with --mode weight, which keeps every example")
    if options.match == "tokens" and not options.tokenizer:
        raise ParameterError("--tokenizer", None, "a model whose tokens are counted, to match tokens")
    if options.out.exists() and not options.overwrite:
        raise ParameterError(
            "--out", str(options.out), "a file that does not exist yet (or give --overwrite)"
        )
    if not options.out.resolve().parent.is_dir():
        raise ParameterError("--out", str(options.out), "a file in a folder that exists")


def _by_difficulty(
    options: ReweightOptions,
    train: Sequence[Example],
    pool: Sequence[Example],
    counts: Mapping[str, int] | None,
) -> Arm:
    moved = ARMS[options.arm]
    if unknown := sorted(set(moved) - {example.domain for example in train}):
        raise DataError(
            options.train, f"has no example of domain {unknown[0]!r}, which arm {options.arm} moves"
        )
    for path, examples in ((options.train, train), (options.pool, pool)):
        if bad := [ex.id for ex in examples if ex.domain in moved and ex.difficulty is None]:
            problem = f"has {len(bad)} examples without difficulty, such as {bad[0]!r}"
            raise DataError(path or "", f"{problem}; arm {options.arm} needs one for each")
    if shared := {example.id for example in train} & {example.id for example in pool}:
        raise DataError(options.pool or "", f"shares {len(shared)} ids with --train, such as {min(shared)!r}")
    return build_arm(
        options.arm,
        train,
        pool,
        easy=options.easy,
        hard=options.hard,
        swap_fraction=options.swap_fraction,
        mode=options.mode,
        match=options.match,
        ratio=options.ratio,
        count_tokens=(lambda example: counts[example.id]) if counts else None,
        seed=options.seed,
    )


def _guided(options: ReweightOptions, train: Sequence[Example]) -> Arm:
    path = options.scores or Path()
    path = path / SCORES if path.is_dir() else path
    if not path.is_file():
        raise DataError(path, "no such file; give a folder that infra attribute wrote")
    check_table(path)
    try:
        frame = pd.read_parquet(path, columns=["id", "target", "score"])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(path, f"is no table of scores ({str(error).splitlines()[0]})") from None
    known = sorted(set(frame["target"]))
    if wrong := sorted(set(options.targets) - set(known)):
        raise ParameterError("--target", wrong[0], "one of " + ", ".join(known))
    scores: dict[str, dict[str, float]] = {}
    for target in options.targets or known:
        rows = frame[frame["target"] == target]
        scores[target] = dict(zip(rows["id"], rows["score"], strict=True))
        if absent := [example.id for example in train if example.id not in scores[target]]:
            raise DataError(
                path, f"has no score of {len(absent)} examples of {options.train}, such as {absent[0]!r}"
            )
    return guided_arm(train, scores, strength=options.strength)
