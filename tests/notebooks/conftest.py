"""The smoke study, run once for all tests here in a copy of the project, and its book."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COPIED = ("_config.yml", "book", "notebooks", "records", "workflow", "README.md", "CHANGELOG.md")


class Project:
    """A copy of the project, with `infra` run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "INFRA_PROJECT": str(folder), "OMP_NUM_THREADS": "1"}

    def infra(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "infra_lib.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            **options,
        )

    def stage(self, name: str, study: str = "smoke") -> Path:
        return self.folder / "_build" / "studies" / study / name


def copy_project(root: Path, folder: Path) -> Project:
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("results", ".results*"))
        else:
            shutil.copy2(source, folder / name)
    return Project(folder)


@pytest.fixture(scope="session")
def smoke(root, tmp_path_factory) -> Project:
    """The smoke study, run to the end."""
    project = copy_project(root, tmp_path_factory.mktemp("project"))
    done = project.infra("run", "--study", "smoke")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    project.first_run = done.stdout
    return project
