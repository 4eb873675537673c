"""The kernel that executes notebooks: this very interpreter, ending with the process that started it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra_lib.files import write_json
from infra_lib.layout import ROOT_VARIABLE
from infra_lib.processes import end_with_parent

NAME = "infra"
"""Name of the kernel, whatever kernels the user has installed."""


def describe_kernel(root: Path) -> str:
    """Write the kernel's description where Jupyter finds it and return its name."""
    folder = root / "_build" / "jupyter" / "kernels" / NAME
    command = [sys.executable, "-m", "infra_lib.kernel", "-f", "{connection_file}"]
    write_json(folder / "kernel.json", {"argv": command, "display_name": "Python 3", "language": "python"})
    return NAME


@contextmanager
def kernel_environment(root: Path) -> Iterator[None]:
    """Set the variables that a kernel inherits, and take them back."""
    values = {
        ROOT_VARIABLE: str(root),
        "JUPYTER_PATH": str(root / "_build" / "jupyter"),
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "MPLBACKEND": "agg",
        "PYTHONWARNINGS": "ignore:IProgress",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


if __name__ == "__main__":
    if started_by := os.environ.get("JPY_PARENT_PID"):
        end_with_parent(int(started_by))
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance()
