"""Where a study's results lie, and how a finished stage is recognised: its record and its files.

Layout::

    _build/studies/<study>/study.json            the study as it was last opened
                           <stage>/data/*.parquet, *.json
                                   figures/<name>.{svg,png,csv,json,md}
                                   tables/<name>.md
                                   provenance.json
                                   notebook.ipynb, depends.json
                           runs/                 training runs, named by what they depend on
                           work/                 checkpoints, factors, and Snakemake's stamps
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra_lib.checksums import damage
from infra_lib.errors import DataError, InfraError
from infra_lib.files import digest_of, read_sealed

ROOT_VARIABLE = "INFRA_PROJECT"
"""Environment variable that names the project folder; by default it is found from the current one."""

STAGES: dict[str, tuple[str, ...]] = {
    "01_data": (),
    "02_base_model": (),
    "03_finetune_evaluate": ("01_data", "02_base_model"),
    "04_example_influence": ("01_data", "03_finetune_evaluate"),
    "05_reweighting_arms": ("01_data", "02_base_model", "03_finetune_evaluate", "04_example_influence"),
    "06_summary": (
        "01_data",
        "02_base_model",
        "03_finetune_evaluate",
        "04_example_influence",
        "05_reweighting_arms",
    ),
    "07_method": ("01_data", "03_finetune_evaluate"),
    "08_explorer": ("01_data", "03_finetune_evaluate", "04_example_influence"),
    "09_validation": ("01_data", "02_base_model", "03_finetune_evaluate"),
}
"""The notebooks in order, and the stages that each reads from."""


def project_root() -> Path:
    """Return the project folder: ``INFRA_PROJECT``, or the first one upwards with ``notebooks/studies``."""
    if named := os.environ.get(ROOT_VARIABLE):
        return Path(named).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks" / "studies").is_dir():
            return folder
    raise InfraError(
        f"no project in {here} or above it: run this in the project's folder, or set {ROOT_VARIABLE}"
    )


def stage_folder(study: str, stage: str, root: Path | None = None) -> Path:
    """Return the folder of a stage's results."""
    return (root or project_root()) / "_build" / "studies" / study / stage


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """Return a finished stage's provenance record, or None where there is none that is whole."""
    try:
        return read_sealed(folder / "provenance.json")
    except (OSError, DataError):
        return None


def damaged_files(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Return the files of a stage, and those that it keeps for later ones, that are missing or changed."""
    return damage(folder, {**record["files"], **record.get("kept", {})})


def data_digest(record: Mapping[str, Any]) -> str:
    """Return the digest of a stage's data files and parameters: what later stages can depend on."""
    data = {name: digest for name, digest in record["files"].items() if name.startswith("data/")}
    return digest_of({"data": data, "effective": record["effective"]})
