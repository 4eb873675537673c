"""The record of a long study: its tables and provenance under ``records/``, and how the book shows them.

A record holds the tables of a finished study (not its models, answers or scores), each stage's
provenance, and nothing else. It is made from stages that are whole, and refused where one is not.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from infra_lib import figures as study_figures
from infra_lib import style
from infra_lib import tables as study_tables
from infra_lib.checksums import check_record, write_manifest
from infra_lib.errors import DataError, InfraError, ParameterError
from infra_lib.files import read_sealed, replace_folder, write_sealed
from infra_lib.layout import damaged_files, read_provenance, stage_folder
from infra_lib.markup import escape
from infra_lib.reading import load_table
from infra_lib.validation import figures, tables
from infra_lib.validation.report import MEAN

STUDY = "full"
"""The study whose record the book shows."""

KEPT: Mapping[str, tuple[str, ...]] = {
    "03_finetune_evaluate": ("accuracy", "accuracy_by_difficulty"),
    "04_example_influence": ("group_influence", "hard_minus_easy", "rank_agreement"),
    "05_reweighting_arms": ("arms", "differences", "accuracy_by_difficulty"),
    "09_validation": (
        "accuracy",
        "lds",
        "differences",
        "single",
        "ceiling",
        "choice",
        "removal",
        "brittleness",
    ),
}
"""Tables that are kept, by stage."""

PROVENANCE = (
    "stage",
    "study",
    "effective",
    "seeds",
    "environment",
    "started",
    "seconds",
    "peak_bytes",
    "summary",
)
"""What is kept of a stage's provenance."""

READ: Mapping[tuple[str, str], frozenset[str]] = {
    ("05_reweighting_arms", "arms"): frozenset({"arm", "domain", "mean", "low", "high", "runs", "n"}),
    ("09_validation", "lds"): frozenset(
        {"method", "target", "selection", "unit", "damping", "dampings", "lds", "low", "high"}
        | {"subsets", "seeds", "models", "responses"}
    ),
    ("09_validation", "differences"): frozenset(
        {"method", "difference", "low", "high", "p_value", "reference", "target", "unit"}
    ),
    ("09_validation", "ceiling"): frozenset(
        {"target", "single", "reliability", "ceiling", "low", "high", "subsets", "repeats", "seeds"}
    ),
    ("09_validation", "choice"): frozenset(
        {"tokens", "responses", "balanced", "domain", "lds", "low", "high", "outcome"}
        | {"outcome_low", "outcome_high", "n"}
    ),
    ("09_validation", "removal"): frozenset(
        {"method", "target", "end", "fraction", "removed", "change", "low", "high"}
        | {"retrainings", "responses"}
    ),
    ("09_validation", "brittleness"): frozenset(
        {"method", "target", "spearman", "lowest", "overlap", "pairs", "models"}
    ),
}
"""Columns that the page reads: what a record must still have to be shown by this code."""

ABSENT = "not available: the study <code>full</code> has no record here"


def record_folder(root: Path, out: str) -> Path:
    """Return the folder of a record, which the manifest of ``records`` must be able to list.

    Raises
    ------
    ParameterError
        For a folder that is not below ``records``, or is one of those that hold something else.
    """
    records, folder = (root / "records").resolve(), (root / out).resolve()
    if folder.parent != records:
        raise ParameterError("--out", out, "a folder in records/, such as records/full")
    if folder.exists() and not (folder / "03_finetune_evaluate").is_dir():
        raise ParameterError("--out", out, "a new folder, or one that holds a study's record")
    return folder


def write_record(root: Path, study: str = STUDY, folder: Path | None = None) -> Path:
    """Keep a finished study's tables and provenance; return the folder.

    Parameters
    ----------
    folder
        Of :func:`record_folder`; None is ``records/<study>``.

    Raises
    ------
    InfraError
        For a stage that has not run, whose files are damaged, or that was made from changed code (its
        commit could not be found again).
    """
    new = root / "_build" / f"record-{study}"
    shutil.rmtree(new, ignore_errors=True)
    for stage, names in KEPT.items():
        own = stage_folder(study, stage, root)
        record = read_provenance(own)
        if record is None:
            raise InfraError(f"{stage} of study {study} has not run: `infra run --study {study}`")
        if damaged := damaged_files(own, record):
            raise InfraError(f"{own / damaged[0]} is missing or changed: `infra run --study {study}`")
        if "+changes" in record["environment"]["commit"]:
            raise InfraError(f"{stage} ran from changed code; commit, then `infra run --study {study}`")
        (new / stage).mkdir(parents=True)
        for name in names:
            shutil.copy2(own / "data" / f"{name}.parquet", new / stage / f"{name}.parquet")
        found = {key: record[key] for key in PROVENANCE if key in record}
        write_sealed(new / stage / "provenance.json", found)
    folder = folder or root / "records" / study
    replace_folder(new, folder)
    write_manifest(root / "records")
    return folder


class Record:
    """A study's record, each file checked against its checksum when it is read.

    Raises
    ------
    DataError
        For a record that lacks a file, or in which one is torn or changed.
    """

    def __init__(self, root: Path, study: str = STUDY) -> None:
        self.root, self.folder = root, root / "records" / study
        for stage, names in KEPT.items():
            for name in (*(f"{name}.parquet" for name in names), "provenance.json"):
                path = self.folder / stage / name
                if not path.is_file():
                    raise DataError(path, "is missing; the record is not whole")
                check_record(root, path)

    def table(self, stage: str, name: str) -> pd.DataFrame:
        """Return a table of the record.

        Raises
        ------
        DataError
            For a table of another time, which lacks what this code reads.
        """
        path = self.folder / stage / f"{name}.parquet"
        found = load_table(path)
        if missing := sorted(READ.get((stage, name), frozenset()) - set(found.columns)):
            raise DataError(
                path,
                f"has no column {missing[0]}, which this version shows; make the record again: "
                f"infra record --study {self.folder.name}",
            )
        return found

    def provenance(self, stage: str) -> dict[str, Any]:
        """Return a stage's provenance."""
        return read_sealed(self.folder / stage / "provenance.json")


SECTIONS = {
    "": ("badge", "verdict", "lds", "lds_each", "lds_table"),
    "Differences between methods": ("differences",),
    "Noise ceiling": ("ceiling",),
    "Damping": ("dampings",),
    "Which target can be predicted": ("choice",),
    "Removal": ("removal",),
    "Other seeds": ("brittleness",),
    "Arms": ("arms",),
}
"""Headings of the record's part of the page, and what stands below each."""


def fragments(root: Path, results: Path) -> dict[str, str]:
    """Return the fragment of ``book/validation.md`` that shows the record; figures go below ``results``."""
    if not (root / "records" / STUDY).is_dir():
        return {"full": ABSENT}
    shown = _shown_parts(Record(root), results)
    sections = [
        "\n\n".join([f"### {heading}"] * bool(heading) + [shown[name] for name in names])
        for heading, names in SECTIONS.items()
    ]
    return {"full": "\n\n".join(sections)}


def _shown_parts(record: Record, results: Path) -> dict[str, str]:
    """Return the tables, figures and sentences that :data:`SECTIONS` names."""
    stage = "09_validation"
    lds, ceiling = record.table(stage, "lds"), record.table(stage, "ceiling")
    differences = record.table(stage, "differences")
    held = lds[(lds["selection"] == "held out") & (lds["unit"] == "target")]
    each = lds[(lds["selection"] == "held out") & (lds["unit"] == "response")]
    fixed = lds[(lds["selection"] == "fixed") & (lds["unit"] == "target")]
    choice, removal = record.table(stage, "choice"), record.table(stage, "removal")
    arms = record.table("05_reweighting_arms", "arms")
    subsets = f"{int(held['subsets'].max())} subsets, {int(held['seeds'].max())} retrainings each"
    spoken = "; ".join(
        f"{figures.METHOD_NAMES[row.method]} {row.lds:.2f}"
        for row in held[held["target"] == MEAN].itertuples()
    )

    def drawn(name: str, figure: Figure, data: pd.DataFrame, alt: str, caption: str) -> str:
        return _shown(results, name, figure, data, alt, caption)

    style.apply()
    return {
        "badge": _badge(record),
        "verdict": tables.verdict(lds, differences, ceiling),
        "lds": drawn(
            "lds",
            figures.lds(held, ceiling),
            held,
            f"LDS of each method with intervals and the noise ceiling. Mean of targets: {spoken}.",
            f"LDS with intervals, {subsets}. Dashed: the noise ceiling with its interval.",
        ),
        "lds_each": drawn(
            "lds_each",
            figures.lds(each, ceiling.iloc[:0]),
            each,
            "LDS of single responses, averaged, of each method with intervals.",
            f"LDS of single responses, averaged, with intervals, {subsets}.",
        ),
        "lds_table": tables.lds_table(lds),
        "ceiling": tables.ceiling_table(ceiling),
        "differences": tables.differences_table(differences),
        "dampings": drawn(
            "dampings",
            figures.dampings(fixed),
            fixed,
            "LDS against the damping for the methods that have one.",
            f"LDS at each damping, {subsets}.",
        ),
        "choice": drawn(
            "choice",
            figures.choices(choice),
            choice,
            "LDS of EK-FAC for each choice of target.",
            f"LDS of EK-FAC by choice of target, {subsets}.",
        ),
        "removal": drawn(
            "removal",
            figures.removal(removal),
            removal,
            "Change of each target after training without the most and least helpful examples.",
            "Change of the target against models trained on everything, by part of the examples removed.",
        ),
        "brittleness": tables.brittleness_table(record.table(stage, "brittleness")),
        "arms": drawn(
            "arms",
            study_figures.arms(arms),
            arms,
            "Accuracy on mathematics and code for each arm with intervals.",
            f"Accuracy by arm, {int(arms['runs'].max())} runs each.",
        ),
    }


def _badge(record: Record) -> str:
    """Return the badge of the recorded run with its commit, machine and time."""
    parts = [record.provenance(stage) for stage in KEPT]
    last = parts[-1]
    hours = sum(part["seconds"] for part in parts) / 3600
    commits = sorted({part["environment"]["commit"][:12] for part in parts})
    title = f"commit {', '.join(commits)}, {last['started'][:10]}"
    return (
        f"{study_tables.badge('recorded', title)} study <code>{escape(last['study'])}</code>, "
        f"{escape(title)}; {escape(last['environment']['device'])}; {hours:.1f} hours for the stages that "
        "are kept."
    )


def _shown(results: Path, name: str, figure: Figure, data: pd.DataFrame, alt: str, caption: str) -> str:
    folder = results / "figures" / "full"
    style.save_figure(folder, "full", name, figure, data=data, alt=alt, caption=caption, page="/validation")
    return (folder / f"{name}.md").read_text(encoding="utf-8")
