"""Checkpoints that are whole or not there.

The Trainer writes a checkpoint file by file and finds the newest folder when it resumes,
half-written or not. Here a checkpoint counts once ``SHA256SUMS`` lists its files, which is
written after every process has written its part; only then does the one before it go. So a
kill at any moment leaves one that can be continued from, and a changed byte is found.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from infra_lib.checksums import MANIFEST, damage, read_manifest, write_manifest
from infra_lib.errors import DataError


def barrier() -> None:
    """Wait for the other processes, where there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def is_main() -> bool:
    """Return whether this process is the one that writes."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


class WholeCheckpoints(TrainerCallback):
    """Mark each checkpoint when it is whole, then remove older ones."""

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Do so after the Trainer has saved; it calls this in every process."""
        barrier()
        if is_main():
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            write_manifest(folder)
            for other in _checkpoints(folder.parent):
                if other != folder:
                    _remove(other)
        barrier()


def last_whole_checkpoint(work: Path) -> Path | None:
    """Return the newest whole checkpoint of ``work``, None where there is none; remove torn ones."""
    whole = [folder for folder in _checkpoints(work) if is_whole(folder)]
    barrier()
    if is_main():
        for folder in _checkpoints(work):
            if folder not in whole:
                # Its list comes last: without one it was being written, or removed, when the run was cut off.
                torn = "is torn or changed" if (folder / MANIFEST).exists() else "was not finished"
                tqdm.write(f"{folder.name} {torn}; training starts before it")
                _remove(folder)
    barrier()
    return whole[-1] if whole else None


def is_whole(folder: Path) -> bool:
    """Return whether a checkpoint has all the files that it was left with, unchanged."""
    try:
        return not damage(folder, read_manifest(folder))
    except DataError:
        return False


def remove_work(work: Path) -> None:
    """Remove a finished training's folder, in an order that leaves nothing that looks like a checkpoint."""
    for folder in _checkpoints(work):
        _remove(folder)
    shutil.rmtree(work, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Remove a checkpoint, its list first: a kill in between leaves what does not claim to be whole."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _checkpoints(work: Path) -> list[Path]:
    """Return the checkpoint folders of ``work``, oldest first."""
    found = {
        int(match[1]): path
        for path in work.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (match := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name))
    }
    return [found[step] for step in sorted(found)]
