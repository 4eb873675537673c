"""A run on several devices, started from one process: a study's run under ``torchrun``.

``python -m infra_lib.finetune.launch JOB`` is what each of its processes runs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra_lib.distributed.launch import torchrun
from infra_lib.errors import InfraError
from infra_lib.examples import Example, read_jsonl, write_jsonl
from infra_lib.files import write_json
from infra_lib.finetune.config import FinetuneConfig, check_weights
from infra_lib.finetune.run import finetune
from infra_lib.finetune.store import read_finished, run_key


def finetune_on(
    devices: int,
    base: str | Path,
    examples: Sequence[Example],
    config: FinetuneConfig,
    *,
    seed: int,
    folder: Path,
    weights: Sequence[float] | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Path:
    """Do what :func:`~infra_lib.finetune.run.finetune` does, with ``devices`` processes.

    Raises
    ------
    ParameterError
        For a configuration that cannot be used, before anything is started.
    InfraError
        Where a process failed; its own words are on standard error.
    """
    if devices == 1:
        return finetune(
            base,
            examples,
            config,
            seed=seed,
            folder=folder,
            weights=weights,
            device=device,
            progress=progress,
        )
    config.check(device=device, processes=devices, launched=True)
    scaled = check_weights(weights, examples)
    if read_finished(folder, run_key(base, examples, scaled, config, seed)):
        return folder
    job = {
        "base": str(base),
        "config": asdict(config),
        "seed": seed,
        "folder": str(folder),
        "weights": None if weights is None else list(weights),
        "device": device,
        "progress": progress,
    }
    with tempfile.TemporaryDirectory(prefix="infra-job-") as temporary:
        write_json(Path(temporary) / "job.json", job)
        write_jsonl(Path(temporary) / "train.jsonl", examples)
        torchrun(devices, "infra_lib.finetune.launch", Path(temporary) / "job.json")
    return folder


def run_job(path: Path) -> Path:
    """Do the job in a file, as one of its processes."""
    job: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    job["config"]["lora_targets"] = tuple(job["config"]["lora_targets"])
    return finetune(
        job["base"],
        read_jsonl(path.with_name("train.jsonl")),
        FinetuneConfig(**job["config"]),
        seed=job["seed"],
        folder=Path(job["folder"]),
        weights=job["weights"],
        device=job["device"],
        progress=job["progress"],
    )


if __name__ == "__main__":
    try:
        run_job(Path(sys.argv[1]))
    except InfraError as error:
        print(f"infra: {error}", file=sys.stderr)
        sys.exit(2)
