"""Make the tree that the launch buttons open: the project, its executed notebooks, and what Binder installs.

``python tools/launch_branch.py OUT --repository URL`` writes it; the workflow ``book`` publishes it as the
branch ``notebooks``. Colab has no project folder, so each notebook begins with a cell that fetches it there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from infra_lib.files import write_text
from infra_lib.layout import STAGES, project_root

FIRST_CELL = """# Only on Colab: fetch and install the project. Elsewhere this cell does nothing.
import subprocess, sys
from pathlib import Path
if "google.colab" in sys.modules and not Path("/content/project").exists():
    fetch = ["git", "clone", "--depth", "1", "--branch", "notebooks", {repository!r}, "/content/project"]
    subprocess.run(fetch, check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", "/content/project"], check=True)
if "google.colab" in sys.modules:
    import os
    os.chdir("/content/project")
    sys.path.insert(0, "/content/project")
# A notebook reads what earlier ones wrote: `!infra run NUMBER --study smoke` makes that in minutes."""


def launchable(notebook: dict, repository: str) -> dict:
    """Return a notebook that can be opened away from its project."""
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "id": "fetch-project",
        "metadata": {},
        "outputs": [],
        "source": FIRST_CELL.format(repository=repository),
    }
    return {**notebook, "cells": [cell, *notebook["cells"]]}


def write_tree(root: Path, out: Path, repository: str) -> None:
    """Write the committed project, the notebooks of ``book/results``, and Binder's requirements."""
    out.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=root, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(out)], input=archive, check=True)
    for stage in STAGES:
        notebook = json.loads((root / "book" / "results" / f"{stage}.ipynb").read_text(encoding="utf-8"))
        text = json.dumps(launchable(notebook, repository), indent=1, ensure_ascii=False)
        write_text(out / "book" / "results" / f"{stage}.ipynb", text + "\n")
    write_text(out / ".binder" / "requirements.txt", "-e .\njupyterlab\n")
    write_text(out / ".binder" / "runtime.txt", "python-3.11\n")
    write_text(out / ".binder" / "apt.txt", "bubblewrap\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--repository", required=True, help="public address of the project")
    options = parser.parse_args()
    write_tree(project_root(), options.out, options.repository)
    sys.exit(0)
