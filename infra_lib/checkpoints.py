"""Training that can be interrupted at any moment: it goes on from the last checkpoint that is whole.

The Trainer of transformers writes a checkpoint file by file. A list of checksums is added
when all of them are there; a checkpoint without one, or with a changed byte, is not used.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from infra_lib.checksums import damage, read_manifest, write_manifest
from infra_lib.errors import DataError


def train_quietly(trainer: Trainer, work: Path) -> Any:
    """Train, from the last whole checkpoint in ``work`` if there is one, without printing logs."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Checksums())
    return trainer.train(resume_from_checkpoint=last_whole_checkpoint(work))


class Checksums(TrainerCallback):
    """Writes a checkpoint's checksums when all of its files are there."""

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Write the list (called by the Trainer after it has saved)."""
        if state.is_world_process_zero:
            write_manifest(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


def last_whole_checkpoint(work: Path) -> str | None:
    """Return the last checkpoint whose files are as they were written; remove torn and changed ones."""
    while last := get_last_checkpoint(str(work)):
        try:
            damaged = damage(Path(last), read_manifest(Path(last)))
        except DataError:
            damaged = ["it was not finished"]
        if not damaged:
            return str(last)
        tqdm.write(f"{Path(last).name} is torn or changed ({damaged[0]}); training starts before it")
        shutil.rmtree(last)
    return None
