"""Where a result comes from: code, machine, versions.

Every results file points to a record with the commit, the study, its parameters and
seeds, the versions of the libraries that matter, the device and the time it took.
"""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pandas",
    "scipy",
    "traker",
    "papermill",
    "jupyter-book",
)


@cache
def commit(root: Path | None = None) -> str:
    """Return the commit of the project, with ``+changes`` where the tree differs from it."""
    folder = root or Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30
        )
        return result.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "not a git checkout"


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def device_name(device: str = "cpu") -> str:
    """Return a readable name of the device that did the work."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device) if torch.cuda.is_available() else "cuda (absent)"
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def driver() -> str:
    """Return the version of the GPU's driver, or that there is none."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    except (OSError, subprocess.SubprocessError):
        said = []
    return said[0] if said else "none"


def environment(device: str = "cpu") -> dict[str, Any]:
    """Return commit, versions, device, threads of a process (as ``OMP_NUM_THREADS``) and operating system.

    On a GPU its driver too.
    """
    return {
        **({"driver": driver()} if device.startswith("cuda") else {}),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "commit": commit(),
        "versions": versions(),
        "device": device_name(device),
        "system": f"{platform.system()} {platform.machine()}",
    }
