"""A stage: one notebook's inputs and outputs, whole or absent, with their provenance.

A notebook opens its stage after its parameters, reads what earlier stages wrote, writes
tables, figures and fragments for the book, and closes the stage. Until it is closed,
everything lies in a folder beside the final one, so that nothing looks complete that is
not; files are checked against their recorded digests before they are used.
Where everything lies is said in :mod:`infra_lib.layout`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from infra_lib.checksums import folder_digests
from infra_lib.device import peak_bytes
from infra_lib.errors import DataError, ParameterError
from infra_lib.files import replace_folder, write_json, write_sealed, write_text
from infra_lib.layout import (
    STAGES,
    damaged_files,
    data_digest,
    project_root,
    read_provenance,
    stage_folder,
)
from infra_lib.provenance import environment
from infra_lib.reading import load_json, load_table
from infra_lib.study import Study, make_study, unknown


def open_stage(name: str, namespace: Mapping[str, Any]) -> Stage:
    """Open a stage from a notebook: ``stage = open_stage("01_data", globals())``.

    Parameters
    ----------
    name
        One of :data:`STAGES`.
    namespace
        The notebook's global names; those that are parameters of a study are taken.

    Raises
    ------
    ParameterError
        For an unknown stage, an invalid parameter, or a stage before this one that has not run.
    DataError
        For a file of an earlier stage that is torn or changed.
    """
    if name not in STAGES:
        raise unknown("stage", name, list(STAGES))
    declared = {key: namespace[key] for key in Study.model_fields if key in namespace}
    study = make_study(declared).study
    root = project_root()
    inherited: dict[str, Any] = {}
    upstream: dict[str, dict[str, Any]] = {}
    for needed in STAGES[name]:
        folder = stage_folder(study, needed, root)
        record = read_provenance(folder)
        if record is None:
            raise ParameterError(
                "study",
                study,
                f"one in which {needed} has run: do `infra run {needed[:2]} --study {study}` first",
            )
        if damaged := damaged_files(folder, record):
            raise DataError(
                folder / damaged[0],
                f"is missing or changed since it was written: `infra run {needed[:2]} --study {study}`",
            )
        inherited |= record["effective"]
        upstream[needed] = record
    params = make_study({**inherited, **declared})
    _set_display()
    return Stage(name, params, declared, upstream, root)


@dataclass(frozen=True)
class ShownFragment:
    """A fragment of HTML as a notebook shows it."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


class Stage:
    """An open stage; made by :func:`open_stage`.

    Attributes
    ----------
    params
        The checked parameters: those that the notebook declares, then those of earlier stages.
    runs
        Folder of training runs, shared by the stages of a study; each is named by what it depends on.
    workspace
        Folder for checkpoints of this stage, kept when a run is interrupted.
    """

    def __init__(
        self,
        name: str,
        params: Study,
        declared: Mapping[str, Any],
        upstream: Mapping[str, dict[str, Any]],
        root: Path,
    ) -> None:
        self.name, self.params, self.root = name, params, root
        self._declared, self._upstream = dict(declared), dict(upstream)
        self._final = stage_folder(params.study, name, root)
        self._part = self._final.with_name(f".{name}.part")
        shutil.rmtree(self._part, ignore_errors=True)
        self._part.mkdir(parents=True)
        self._summary: list[str] = []
        self._kept: dict[str, str] = {}
        self._notes: dict[str, Any] = {}
        self._tables: dict[str, pd.DataFrame] = {}
        self._started = time.perf_counter()
        self._start_time = datetime.now(UTC)
        self.runs = self._final.parent / "runs"
        self.workspace = self._final.parent / "work" / name
        self.runs.mkdir(exist_ok=True)
        self.workspace.mkdir(parents=True, exist_ok=True)

    # --- reading ---------------------------------------------------------------------

    def project_path(self, path: str) -> Path:
        """Return a path of the project, absolute."""
        return self.root / path

    def folder_of(self, stage: str) -> Path:
        """Return the results folder of an earlier stage.

        Raises
        ------
        ParameterError
            For a stage that this one does not declare to read from.
        """
        if stage not in self._upstream:
            raise unknown("stage", stage, list(self._upstream))
        return stage_folder(self.params.study, stage, self.root)

    def workspace_of(self, stage: str) -> Path:
        """Return the folder of an earlier stage's checkpoints, such as factors; it may hold nothing."""
        self.folder_of(stage)
        return self._final.parent / "work" / stage

    def read_table(self, stage: str, name: str) -> pd.DataFrame:
        """Read a table that an earlier stage wrote.

        Raises
        ------
        DataError
            For a file that is missing or no table.
        """
        return load_table(self.folder_of(stage) / "data" / f"{name}.parquet")

    def read_json(self, stage: str, name: str) -> Any:
        """Read a JSON value that an earlier stage wrote.

        Raises
        ------
        DataError
            For a file that is missing or no JSON.
        """
        return load_json(self.folder_of(stage) / "data" / f"{name}.json")

    def records(self) -> dict[str, dict[str, Any]]:
        """Return the provenance records of the stages that this one reads from."""
        return dict(self._upstream)

    # --- writing ---------------------------------------------------------------------

    def write_table(self, name: str, frame: pd.DataFrame) -> Path:
        """Write a table as parquet, with study, stage and parameters in its metadata."""
        path = self._part / "data" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        table = pa.Table.from_pandas(frame, preserve_index=False)
        note = json.dumps({"study": self.params.study, "stage": self.name, "parameters": self._effective()})
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"infra": note.encode()})
        pq.write_table(table, path)
        self._tables[name] = frame
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON value."""
        path = self._part / "data" / f"{name}.json"
        write_json(path, value)
        return path

    def write_fragment(self, name: str, text: str) -> ShownFragment:
        """Write a fragment of HTML that pages of the book include; at the end of a cell it shows itself."""
        write_text(self._part / "tables" / f"{name}.md", text.rstrip() + "\n")
        return ShownFragment(text)

    def write_figure(self, name: str, figure: Any, *, data: pd.DataFrame, alt: str, caption: str) -> Any:
        """Write a figure (SVG, PNG), its data (CSV), its record and its book fragment.

        The record names the results file behind the figure: the table of this stage that holds its data,
        or, where there is none, its data, written as a table ``figure_<name>``.

        Returns
        -------
        ShownFigure
            What a notebook shows when it stands at the end of a cell.
        """
        from infra_lib.style import save_figure

        table = self._table_of(data)
        if table is None:
            table = f"figure_{name}"
            self.write_table(table, data)
        return save_figure(
            self._part / "figures",
            self.name,
            name,
            figure,
            data=data,
            alt=alt,
            caption=caption,
            results=f"data/{self.name}/{table}.parquet",
        )

    def _table_of(self, data: pd.DataFrame) -> str | None:
        """Return the table that holds a figure's data: every column of it, and every row."""
        for name, table in self._tables.items():
            held = table is data or (
                set(data.columns) <= set(table.columns)
                and data.index.isin(table.index).all()
                and table.index.is_unique
                and table.loc[data.index, list(data.columns)].equals(data)
            )
            if held:
                return name
        return None

    def write_summary(self, lines: Sequence[str]) -> None:
        """Add lines to the summary that is printed after a run."""
        self._summary += list(lines)

    def write_note(self, name: str, value: Any) -> None:
        """Put a fact that the parameters do not tell into the provenance record, below ``notes``."""
        self._notes[name] = value

    def keep_models(self, folders: Iterable[Path]) -> None:
        """Note models of :attr:`runs` that later stages read: if one changes, this stage runs again."""
        for folder in folders:
            where = os.path.relpath(folder, self._final)
            self._kept |= {f"{where}/{name}": digest for name, digest in folder_digests(folder).items()}

    @property
    def folder(self) -> Path:
        """Where the results are once the stage is closed."""
        return self._final

    def close(self) -> None:
        """Record provenance and put the results in place, in one step."""
        record = {
            "stage": self.name,
            "study": self.params.study,
            "parameters": self._declared,
            "effective": self._effective(),
            "seeds": {key: value for key, value in self.params.model_dump().items() if "seed" in key},
            "environment": environment(self.params.device),
            "started": self._start_time.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._started, 1),
            "peak_bytes": peak_bytes(),
            "reads": {name: data_digest(upstream) for name, upstream in self._upstream.items()},
            "summary": self._summary,
            "notes": self._notes,
            "files": folder_digests(self._part),
            "kept": self._kept,
        }
        write_sealed(self._part / "provenance.json", record)
        replace_folder(self._part, self._final)

    def _effective(self) -> dict[str, Any]:
        """Parameters that the results depend on: declared here or in the stages before."""
        names = set(self._declared)
        for record in self._upstream.values():
            names |= set(record["effective"])
        values = self.params.model_dump()
        return {name: values[name] for name in sorted(names - {"study", "processes"})}


def _set_display() -> None:
    from infra_lib import style

    style.apply()
    pd.set_option("display.precision", 3)
    pd.set_option("display.max_columns", 20)
    pd.set_option("display.max_colwidth", 60)
