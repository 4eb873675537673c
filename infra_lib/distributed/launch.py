"""Starting ``torchrun`` from a process that has other things to do, such as a notebook's kernel."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from infra_lib.errors import InfraError


def torchrun(processes: int, module: str, job: Path) -> None:
    """Run ``python -m module job`` in several processes of this machine, and wait for them.

    They end with this process, and their words go where its own go.

    Raises
    ------
    InfraError
        Where one of them failed; its own words are on standard error.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(processes), "-m", module, str(job)]
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(command, env=inherited, preexec_fn=_end_with_parent, check=False)
    if done.returncode:
        raise InfraError(f"torchrun with {processes} processes ended with status {done.returncode}")


def _end_with_parent() -> None:
    """Have Linux end torchrun, and so its workers, when the process that started it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
