"""``infra finetune``: weighted fine-tuning of anybody's model on anybody's examples.

A line of the training file is ``{"id": …, "domain": …, "prompt": …, "response": …}`` with
an optional ``"weight"``. The command runs by itself on one device, and under ``torchrun``
or ``accelerate launch`` on many.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from infra_lib.errors import DataError, ParameterError
from infra_lib.examples import Example, read_jsonl
from infra_lib.files import file_digest
from infra_lib.finetune.config import FinetuneConfig, check_weights, process_count
from infra_lib.finetune.run import finetune
from infra_lib.finetune.store import run_key
from infra_lib.models import check_model_folder, load_tokenizer
from infra_lib.prompt_form import describe_prompts, warn_of_cautions
from infra_lib.provenance import environment

DEFAULT_KEY = "weight"


@dataclass(frozen=True)
class FinetuneOptions:
    """What ``infra finetune`` is asked for.

    Attributes
    ----------
    model
        Local Hugging Face folder, or hub name.
    train
        JSON Lines file of examples.
    out
        Folder of the finished model: new, empty, or of an earlier ``infra finetune``.
    config
        Fine-tuning settings.
    weights
        Key of the training file's lines, or a file (.jsonl, .csv, .parquet) with columns ``id`` and
        ``weight``; None takes the key ``weight`` where lines have it and equal weights where none has.
    device
        ``cpu``, ``cuda``, or ``auto`` for cuda where there is one.
    overwrite
        Replace another finished run in ``out``.
    """

    model: str
    train: Path
    out: Path
    config: FinetuneConfig
    weights: str | None = None
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False


def finetune_files(options: FinetuneOptions, *, progress: bool = True) -> Path:
    """Fine-tune as asked and return the folder, whose ``run.json`` says how it came about.

    Raises
    ------
    ParameterError, DataError, ModelError
        Before anything is trained, naming the option, the file and line, or the tensor.
    """
    device = _device(options.device)
    options.config.check(device=device, processes=process_count())
    if options.seed < 0:
        raise ParameterError("--seed", options.seed, "0 or more")
    examples = read_jsonl(options.train)
    weights = read_weights(options.train, examples, options.weights)
    check_model_folder(options.model)
    key = run_key(options.model, examples, check_weights(weights, examples), options.config, options.seed)
    _check_out(options.out, key, options.overwrite)
    inputs = [options.train]
    if options.weights and Path(options.weights).is_file():
        inputs.append(Path(options.weights))
    prompts = describe_prompts(
        load_tokenizer(options.model), examples, chat_template=options.config.chat_template
    )
    if os.environ.get("RANK", "0") == "0":
        warn_of_cautions(prompts)
    return finetune(
        options.model,
        examples,
        options.config,
        seed=options.seed,
        folder=options.out.resolve(),
        weights=weights,
        device=device,
        progress=progress,
        notes={
            "inputs": {str(path): file_digest(path) for path in inputs},
            "weights": None if weights is None else {"lowest": min(weights), "highest": max(weights)},
            "prompts": prompts,
            "environment": environment(device),
        },
    )


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_out(out: Path, key: str, overwrite: bool) -> None:
    """Raise for a folder that holds something which would be lost."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        parent = next(folder for folder in out.resolve().parents if folder.exists())
        if not os.access(parent, os.W_OK):
            raise ParameterError("--out", str(out), "a folder that can be written")
        return
    try:
        held = json.loads((out / "run.json").read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ParameterError("--out", str(out), "new, empty, or of an earlier infra finetune") from None
    if held != key and not overwrite:
        raise ParameterError("--out", str(out), "another folder: it holds another run (or give --overwrite)")


def read_weights(train: Path, examples: Sequence[Example], source: str | None) -> list[float] | None:
    """Return one weight per example in their order, or None for equal weights.

    Parameters
    ----------
    source
        See :class:`FinetuneOptions`.

    Raises
    ------
    DataError
        Naming the file, and the line or example, of a weight that is missing, no number, or of nobody.
    """
    if source is not None and Path(source).suffix in (".jsonl", ".csv", ".parquet"):
        return _from_file(Path(source), examples)
    key = source or DEFAULT_KEY
    lines = [line for line in enumerate(train.read_bytes().split(b"\n"), start=1) if line[1].strip()]
    records = [(number, json.loads(raw)) for number, raw in lines]
    if source is None and not any(key in record for _, record in records):
        return None
    for number, record in records:
        if key not in record:
            raise DataError(train, f"has no {key!r}, which other lines have or --weights names", number)
        _check_number(train, record[key], f"{key} of {record['id']!r}", number)
    return [float(record[key]) for _, record in records]


def _from_file(path: Path, examples: Sequence[Example]) -> list[float]:
    readers = {".jsonl": _read_json_lines, ".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if not path.is_file():
        raise DataError(path, "no such file; give a .jsonl, .csv or .parquet file with id and weight")
    try:
        frame = readers[path.suffix](path)
    except (OSError, ValueError) as error:
        raise DataError(path, f"cannot be read ({str(error).splitlines()[0]})") from None
    if missing := [name for name in ("id", "weight") if name not in frame.columns]:
        raise DataError(path, f"has no column {missing[0]!r}; it has {', '.join(map(str, frame.columns))}")
    given: dict[str, Any] = dict(zip(frame["id"].astype(str), frame["weight"].tolist(), strict=True))
    if len(given) != len(frame):
        raise DataError(path, f"has {len(frame)} lines for {len(given)} ids; ids must be unique")
    if absent := [example.id for example in examples if example.id not in given]:
        raise DataError(path, f"has no weight for {len(absent)} examples, such as {absent[0]!r}")
    if extra := set(given) - {example.id for example in examples}:
        raise DataError(path, f"has weights for {len(extra)} ids that no example has, such as {min(extra)!r}")
    for example in examples:
        _check_number(path, given[example.id], f"weight of {example.id!r}", None)
    return [float(given[example.id]) for example in examples]


def _read_json_lines(path: Path) -> pd.DataFrame:
    return pd.read_json(path, lines=True, dtype={"id": str})


def _check_number(path: Path, value: Any, name: str, line: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(path, f"{name} is {value!r}; it must be a number above 0", line)
