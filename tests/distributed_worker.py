"""What the processes of test_distributed.py run: several attributions, or one that fails on one process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch

from infra_lib import distributed
from infra_lib.attribute import Options, attribute
from infra_lib.examples import read_jsonl
from infra_lib.scoring import score_training_set

ALL = ("example", "sentence", "token")
CASES = {
    "ekfac": {"levels": ALL, "self_influence": True},
    "position": {"levels": ALL, "reading": "position"},
    "rounds": {"labels": "empirical", "memory": "12kB", "normalise": "self"},
    "graddot": {"method": "graddot", "levels": ALL},
    "gradcos": {"method": "gradcos", "levels": ALL, "batch_tokens": 64},
    "trak": {"method": "trak"},
    "loss": {"method": "loss"},
}


def run_cases(model: Path, files: Path, out: Path) -> None:
    """Run every case, the second one on the factors that the first one stored."""
    for name, change in CASES.items():
        folder = out / ("ekfac" if name == "position" else name)
        attribute(
            Options(str(model), files / "train.jsonl", files / "target.jsonl", folder, **change),
            progress=False,
        )
        if name == "ekfac" and distributed.is_main():
            for level in ALL:
                (folder / f"{level}s.parquet").rename(folder / f"first-{level}s.parquet")
    study(model, files, out)


def study(model: Path, files: Path, out: Path) -> None:
    """Score as the notebooks do."""
    train, target = (read_jsonl(files / f"{name}.jsonl") for name in ("train", "target"))
    found = score_training_set(model, train, {"all": target}, folder=out / "study", progress=False)
    if distributed.is_main():
        np.save(out / "study.npy", found.scores["score"].to_numpy())


def fail_on_one(arguments: list[str]) -> None:
    """Run the command line, with an error in the midst of fitting on the second process alone."""
    from infra_lib import cli
    from infra_lib.curvature import fit
    from infra_lib.errors import NumericalError

    inner = fit._second_moments

    def broken(*inputs):
        if os.environ["RANK"] == "1":
            raise NumericalError("the second process has had enough")
        return inner(*inputs)

    fit._second_moments = broken
    sys.argv = ["infra", *arguments]
    cli.main()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "cases":
        with distributed.process_group("cpu"):
            run_cases(*(Path(argument) for argument in sys.argv[2:]))
    else:
        fail_on_one(sys.argv[2:])
