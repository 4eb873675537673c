"""Compare two studies' results file by file: the same bytes, apart from times and provenance.

Every data file, figure and table fragment of every stage is compared. Three things may
differ between two runs that gave the same results, and are left out by rule, here and
nowhere else: the note of study and parameters in a parquet file's metadata (and the
entry ``study`` of a JSON file), the fragment
that shows commits and times (:data:`APART`), and the records of provenance themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from infra_lib import tables
from infra_lib.checksums import check_record, list_anew
from infra_lib.errors import DataError, ParameterError
from infra_lib.files import file_digest, read_sealed, write_sealed
from infra_lib.layout import STAGES, read_provenance, stage_folder

COMPARED = ("data", "figures", "tables")
APART = frozenset({"06_summary/tables/provenance.md"})
"""Files that show times and commits, and so differ between any two runs."""

LOOSE = {
    "04_example_influence/data/rank_agreement.parquet": "rank correlations, which jump at a near tie",
    "04_example_influence/data/factor_checks.parquet": "residuals of the factors, which are rounding itself",
}
"""Tables whose numbers another order of summation may move by up to :data:`LOOSE_TOLERANCE`, and why."""
LOOSE_TOLERANCE = 0.1

RECORD = "determinism.json"


@dataclass(frozen=True)
class Comparison:
    """What the comparison of two studies found.

    Attributes
    ----------
    identical
        Files with the same content, byte for byte.
    differences
        One line per file that differs or is in one study only, by relative name.
    largest
        Largest difference of a number in a table, relative to the column's largest magnitude;
        infinite where tables differ in shape, text or missing values. Tables of :data:`LOOSE` count in
        ``loose`` in its place.
    loose
        The same for those tables.
    """

    identical: list[str]
    differences: dict[str, str]
    largest: float
    loose: float = 0.0

    def within(self, tolerance: float) -> bool:
        """Return whether only numbers (and what is drawn from them) differ, up to a tolerance."""
        return self.largest <= tolerance and self.loose <= max(tolerance, LOOSE_TOLERANCE)


def compare(a: Path, b: Path) -> Comparison:
    """Compare the results of two study folders.

    Raises
    ------
    DataError
        For a stage that only one of them has run, or a study of which none has.
    """
    stages = _stages(a, b)
    names = sorted(_files(a, stages) | _files(b, stages))
    identical, differences, largest, loose = [], {}, 0.0, 0.0
    for name in names:
        problem, distance = _difference(a / name, b / name)
        if problem:
            differences[name] = problem
            if name in LOOSE:
                loose = max(loose, distance)
            else:
                largest = max(largest, distance)
        else:
            identical.append(name)
    return Comparison(identical, differences, largest, loose)


def _stages(a: Path, b: Path) -> list[str]:
    """Return the stages that both studies have run."""
    ran: list[set[str]] = [
        {stage for stage in STAGES if read_provenance(folder / stage)} for folder in (a, b)
    ]
    for folder, has, other in ((a, ran[0], ran[1]), (b, ran[1], ran[0])):
        if missing := sorted(other - has) or (list(STAGES) if not has else []):
            raise DataError(folder / missing[0], "has not run, so there is nothing to compare")
    return sorted(ran[0])


def _files(folder: Path, stages: Sequence[str]) -> set[str]:
    paths = (path for stage in stages for part in COMPARED for path in (folder / stage / part).rglob("*"))
    return {str(path.relative_to(folder)) for path in paths if path.is_file()} - APART


def _difference(a: Path, b: Path) -> tuple[str | None, float]:
    """Return how two files differ, in words, and by how much where numbers tell."""
    if not a.is_file() or not b.is_file():
        return f"is in {'the second' if b.is_file() else 'the first'} study only", math.inf
    if file_digest(a) == file_digest(b):
        return None, 0.0
    if a.suffix == ".json" and a.parent.name == "data" and _without_study(a) == _without_study(b):
        return None, 0.0
    if a.suffix != ".parquet":
        # Figures and fragments are drawn from tables, which say by how much.
        return "differs", 0.0 if a.parent.name in ("figures", "tables") else math.inf
    if _content(a) == _content(b):
        return None, 0.0
    distance = table_distance(pd.read_parquet(a), pd.read_parquet(b))
    return f"differs by up to {distance:.1e} of a column's largest value", distance


def _content(path: Path) -> bytes:
    """Return a table as bytes, without the note of its study and parameters."""
    table = pq.read_table(path)
    kept = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"infra"}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.with_metadata(kept)) as writer:
        writer.write_table(table.replace_schema_metadata(kept).combine_chunks())
    return sink.getvalue().to_pybytes()


def _without_study(path: Path) -> Any:
    """Return what a JSON file holds, without the name of its study."""
    held = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in held.items() if key != "study"} if isinstance(held, dict) else held


def table_distance(a: pd.DataFrame, b: pd.DataFrame) -> float:
    """Return the largest difference of two tables' numbers, relative to each column's largest magnitude.

    Infinite where shapes, columns, types, texts or missing values differ. Ranks beside the scores that they
    are of are left out: two scores that differ by rounding may change places.
    """
    if list(a.columns) != list(b.columns) or len(a) != len(b) or list(a.dtypes) != list(b.dtypes):
        return math.inf
    largest = 0.0
    for name in a.columns:
        if name == "rank" and "score" in a.columns:
            continue
        if pd.api.types.is_float_dtype(a[name]):
            x, y = a[name].to_numpy(float), b[name].to_numpy(float)
            if not np.array_equal(np.isfinite(x), np.isfinite(y)):
                return math.inf
            finite = np.isfinite(x)
            scale = max(np.abs(x[finite]).max(initial=0.0), np.abs(y[finite]).max(initial=0.0))
            if scale:
                largest = max(largest, float(np.abs(x - y)[finite].max(initial=0.0) / scale))
        elif not a[name].equals(b[name]):
            return math.inf
    return largest


# --- The record, and how the book shows it -----------------------------------------------


def setting(root: Path, study: str) -> dict[str, Any]:
    """Return what a study ran on: commit, device, versions, threads, processes, and when it ended."""
    records = (read_provenance(stage_folder(study, stage, root)) for stage in reversed(STAGES))
    record = next((record for record in records if record), {})
    opened = read_sealed(stage_folder(study, "study.json", root))
    named = {"study": study, "processes": opened["processes"], "started": record.get("started")}
    return {**named, **record.get("environment", {})}


def record_comparison(
    root: Path, a: str, b: str, found: Comparison, label: str, *, tolerance: float = 0.0
) -> Path:
    """Add a comparison to ``records/determinism.json``, in the place of an earlier one of the same label.

    Parameters
    ----------
    tolerance
        What was allowed, relative to a column's largest magnitude; shown beside what was found.
    """
    path = root / "records" / RECORD
    kept = read_comparisons(root) or {}
    kept[label] = {
        "studies": [setting(root, a), setting(root, b)],
        "identical": len(found.identical),
        "differences": found.differences,
        "largest": found.largest if math.isfinite(found.largest) else "not numbers alone",
        "loose": found.loose if math.isfinite(found.loose) else "not numbers alone",
        "tolerance": tolerance,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_sealed(path, {"comparisons": kept})
    list_anew(root / "records", str(path.relative_to(root / "records")))
    return path


def read_comparisons(root: Path) -> dict[str, Any] | None:
    """Return the recorded comparisons by label, or None where there is no record.

    Raises
    ------
    DataError
        For a record that is torn or changed.
    """
    path = root / "records" / RECORD
    if not path.exists():
        return None
    check_record(root, path)
    comparisons: dict[str, Any] = read_sealed(path)["comparisons"]
    return comparisons


def determinism(root: Path) -> str:
    """Return what the book says about repeated runs, from the record; that there is none, where so."""
    comparisons = read_comparisons(root)
    if not comparisons:
        return f"Two runs of one study have not been compared yet: {tables.NOT_AVAILABLE}."
    rows = []
    for label, record in comparisons.items():
        rows.append([tables.escape(label), *_shown(record)])
    headers = ["compared", "run on", "files", "identical", "what differs"]
    # All columns wrap, since the last one holds sentences.
    table = tables.html_table(headers, rows, left=5, label="Repeated runs compared", stacked=True)
    last = max(record["when"] for record in comparisons.values())
    return f"{tables.badge('recorded', last[:10])} Last compared {last[:10]}.\n\n{table}"


def _shown(record: Mapping[str, Any]) -> list[str]:
    first = record["studies"][0]
    where = f"{first.get('device', tables.NOT_AVAILABLE)}, commit {str(first.get('commit'))[:12]}"
    layouts = [f"{s.get('processes')} × {s.get('threads')}" for s in record["studies"]]
    if layouts[0] != layouts[1]:
        where += f"; processes × threads: {layouts[0]}, then {layouts[1]}"
    count = record["identical"] + len(record["differences"])
    if not record["differences"]:
        differs = "nothing"
    elif isinstance(record["largest"], str) or isinstance(record.get("loose"), str):
        differs = ", ".join(record["differences"])
    else:
        differs = f"numbers in tables, by at most {record['largest']:.1e} of a column's largest value"
        if allowed := record.get("tolerance"):
            differs += f" (allowed: {allowed:g})"
        if loose := record.get("loose"):
            most = f"{loose:.1e} (allowed: {LOOSE_TOLERANCE:g})"
            differs += f"; by at most {most} in {' and '.join(LOOSE.values())}"
    return [tables.escape(where), f"{count:,}", f"{record['identical']:,}", tables.escape(differs)]


def find_study(root: Path, name: str) -> Path:
    """Return the folder of a study that has run.

    Raises
    ------
    ParameterError
        For a study without results, naming those that have some.
    """
    folder = stage_folder(name, ".", root).resolve()
    if not (folder / "study.json").exists():
        having = sorted(path.parent.name for path in folder.parent.glob("*/study.json"))
        raise ParameterError("study", name, f"one that has run: {', '.join(having) or 'none has'}")
    return folder
