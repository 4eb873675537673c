"""Scores on several devices, started from one process: a notebook's, which ``torchrun`` does the work for.

``python -m infra_lib.launched JOB`` is what each of its processes runs. They share the examples
(:mod:`infra_lib.distributed`), and the first one writes the scores beside the job, where who started
them reads them: arrays in a safetensors file, what they are of in a JSON file.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from infra_lib.distributed import is_main, process_group, speaks_first
from infra_lib.distributed.launch import torchrun
from infra_lib.errors import InfraError, ParameterError
from infra_lib.examples import Example, read_jsonl, write_jsonl
from infra_lib.files import write_json

Arrays = dict[tuple[str, ...], list[np.ndarray]]
"""What an array is of, such as a reading, a method and a target, to one array [tokens] per example."""

TRAINING_SET, METHODS = "training set", "methods"
"""What can be shared: :func:`infra_lib.scoring.score_training_set`, and the explorer's ``score_methods``."""


def scores_on(
    devices: int,
    what: str,
    model_folder: str | Path,
    train: Sequence[Example],
    targets: Mapping[str, Sequence[Example]],
    *,
    device: str,
    options: Mapping[str, Any],
) -> tuple[Arrays, dict[str, Any]]:
    """Score with ``devices`` processes, one for each device.

    Parameters
    ----------
    what
        :data:`TRAINING_SET` or :data:`METHODS`, whose other parameters are ``options``.
    device
        ``cpu``, or ``cuda``, of which each process takes one.

    Returns
    -------
    Arrays
        Scores by reading and target, or by reading, method and target.
    dict
        What else was found, as JSON holds it.

    Raises
    ------
    ParameterError
        For more processes than devices or training examples, before anything is started.
    InfraError
        Where a process failed; its own words are on standard error.
    """
    _check(devices, device, len(train))
    with tempfile.TemporaryDirectory(prefix="infra-job-") as temporary:
        folder = Path(temporary)
        write_jsonl(folder / "train.jsonl", train)
        for number, correct in enumerate(targets.values()):
            write_jsonl(folder / f"target-{number}.jsonl", correct)
        write_json(
            folder / "job.json",
            {
                "what": what,
                "model": str(model_folder),
                "targets": list(targets),
                "device": device,
                "options": {name: _as_json(value) for name, value in options.items()},
            },
        )
        torchrun(devices, "infra_lib.launched", folder / "job.json")
        return _read(folder)


def _check(devices: int, device: str, examples: int) -> None:
    if device.startswith("cuda"):
        there = torch.cuda.device_count()
        if devices > there:
            raise ParameterError(
                "devices_per_run", devices, f"at most the {there} CUDA devices of this machine"
            )
        if device != "cuda":
            raise ParameterError(
                "device", device, "cuda without a number where several devices share the work"
            )
    if devices > examples:
        raise ParameterError("devices_per_run", devices, f"at most the {examples} training examples")


def _as_json(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return str(value) if isinstance(value, Path) else value


def run_job(path: Path) -> None:
    """Do the job in a file, as one of its processes; the first one writes the scores beside it."""
    job: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    options = job["options"]
    options["dtype"] = getattr(torch, options["dtype"])
    for name in ("folder", "factors_folder"):
        if options.get(name) is not None:
            options[name] = Path(options[name])
    train = read_jsonl(path.with_name("train.jsonl"))
    targets = {
        name: read_jsonl(path.with_name(f"target-{number}.jsonl"))
        for number, name in enumerate(job["targets"])
    }
    with process_group(job["device"]) as device:
        arrays, facts = _WORK[job["what"]](job["model"], train, targets, device=device, **options)
        if is_main():
            _write(path.parent, arrays, facts)


def _training_set(*given: Any, **options: Any) -> tuple[Arrays, dict[str, Any]]:
    from infra_lib.scoring import score_training_set

    found = score_training_set(*given, **options)
    arrays: Arrays = {("loss", target): rows for target, rows in found.tokens.items()}
    arrays |= {("position", target): rows for target, rows in found.positions.items()}
    return arrays, {"checks": found.checks, "seconds": found.seconds}


def _methods(*given: Any, **options: Any) -> tuple[Arrays, dict[str, Any]]:
    from infra_lib.explorer.score import score_methods

    found = score_methods(*given, **options)
    arrays: Arrays = {("loss", *key): list(rows) for key, rows in found.loss.items()}
    arrays |= {("position", *key): list(rows) for key, rows in found.position.items()}
    return arrays, {}


_WORK = {TRAINING_SET: _training_set, METHODS: _methods}


def _write(folder: Path, arrays: Arrays, facts: dict[str, Any]) -> None:
    tensors = {}
    for number, rows in enumerate(arrays.values()):
        tensors[f"{number}"] = np.concatenate(rows)
        tensors[f"{number}|lengths"] = np.array([len(row) for row in rows], dtype=np.int64)
    save_file(tensors, folder / "scores.safetensors")
    write_json(folder / "scores.json", {"of": [list(key) for key in arrays], "facts": facts})


def _read(folder: Path) -> tuple[Arrays, dict[str, Any]]:
    found = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "scores.safetensors")
    arrays: Arrays = {
        tuple(key): np.split(tensors[f"{number}"], tensors[f"{number}|lengths"].cumsum()[:-1])
        for number, key in enumerate(found["of"])
    }
    return arrays, found["facts"]


if __name__ == "__main__":
    try:
        run_job(Path(sys.argv[1]))
    except InfraError as error:
        if speaks_first():
            print(f"infra: {error}", file=sys.stderr)
        sys.exit(2)
