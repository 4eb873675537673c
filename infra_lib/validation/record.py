"""The record of a long study: its tables and provenance under ``records/``, stage by stage.

A record holds tables of finished stages (not their models, texts of answers, or scores), which answers
of the arms were right (:data:`GRADED`), each stage's provenance, and nothing else. It is made from
stages that are whole, and refused where one is not. A study of hours may be recorded in parts: stages
that are not named stay as they are in the record.
:mod:`infra_lib.validation.record_pages` shows it in the book.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from infra_lib.checksums import check_record, list_anew
from infra_lib.errors import DataError, InfraError, ParameterError
from infra_lib.files import read_sealed, replace_folder, write_sealed
from infra_lib.layout import STAGES, damaged_files, data_digest, read_provenance, stage_folder
from infra_lib.reading import load_table

STUDY = "full"
"""The long study of small models; those of larger ones are :data:`.record_pages.LARGER`."""

VALIDATION = f"{STUDY}-validation"
"""The record of its validation, where that was another run than its arms'."""

ARMS = "05_reweighting_arms"

KEPT: Mapping[str, tuple[str, ...]] = {
    "02_base_model": ("bases",),
    "03_finetune_evaluate": ("accuracy", "accuracy_by_difficulty"),
    "04_example_influence": (
        "group_influence",
        "hard_minus_easy",
        "rank_agreement",
        "sentence_kinds",
        "token_classes",
    ),
    ARMS: ("arms", "differences", "accuracy_by_difficulty", "composition"),
    "06_summary": ("claims",),
    "09_validation": (
        "accuracy",
        "lds",
        "differences",
        "single",
        "ceiling",
        "choice",
        "removal",
        "brittleness",
        "groups",
        "group_agreement",
    ),
}
"""Tables that are kept, by stage."""

KEPT_TOO: Mapping[str, tuple[str, ...]] = {
    "03_finetune_evaluate": ("exams",),
    "04_example_influence": (
        "factor_checks",
        "transfer",
        "exploratory_minus_others",
        "symbolic_minus_conversational",
    ),
    ARMS: ("exams",),
}
"""Tables that are kept where a study has them."""

GRADED = ("arm", "base_seed", "seed", "id", "domain", "difficulty", "sample", "n_tokens", "correct")
"""Columns of ``graded.parquet``, kept of the arms' answers: what their tables are made from, run by run."""

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
    "reads",
)
"""What is kept of a stage's provenance; beside it stands the digest of its own data (``digest``)."""

READ: Mapping[tuple[str, str], frozenset[str]] = {
    ("02_base_model", "bases"): frozenset(
        {"base_seed", "parameters", "tokens", "final_loss", "seconds", "weights_sha256"}
    ),
    ("03_finetune_evaluate", "accuracy"): frozenset({"domain", "mean", "low", "high", "runs", "n"}),
    ("03_finetune_evaluate", "accuracy_by_difficulty"): frozenset(
        {"domain", "difficulty", "mean", "low", "high", "runs", "n"}
    ),
    ("04_example_influence", "group_influence"): frozenset(
        {"target", "domain", "difficulty", "mean", "low", "high", "runs", "n"}
    ),
    ("04_example_influence", "hard_minus_easy"): frozenset(
        {"target", "domain", "difference", "low", "high", "n_hard", "n_easy", "runs"}
    ),
    ("04_example_influence", "sentence_kinds"): frozenset(
        {"target", "domain", "kind", "mean", "low", "high", "runs", "n"}
    ),
    ("04_example_influence", "token_classes"): frozenset(
        {"target", "domain", "reading", "class", "mean", "low", "high", "difference", "runs", "n"}
    ),
    (ARMS, "arms"): frozenset({"arm", "domain", "mean", "low", "high", "runs", "n", "tokens_per_epoch"}),
    (ARMS, "differences"): frozenset(
        {"arm_a", "arm_b", "domain", "difference", "low", "high", "p_value", "p_problems", "p_runs"}
        | {"runs", "n"}
    ),
    ("06_summary", "claims"): frozenset(
        {"test", "says", "direction", "reported", "mark_says", "mean", "low", "high", "unit", "digits"}
        | {"runs", "n", "verdict"}
    ),
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
    ("09_validation", "single"): frozenset({"model", "method", "target", "lds", "unit"}),
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
    ("09_validation", "groups"): frozenset(
        {"target", "domain", "difficulty", "change", "predicted", "nats", "low", "high", "accuracy"}
        | {"accuracy_low", "accuracy_high", "seeds", "responses", "n"}
    ),
    ("09_validation", "group_agreement"): frozenset(
        {"target", "change", "agree", "low", "high", "constant", "clear", "n", "n_clear", "spearman"}
    ),
}
"""Columns that the page reads: what a record must still have to be shown by this code."""


def recorded_stages(stages: Sequence[str] | None = None, *, validated: bool = True) -> list[str]:
    """Return which stages a record of some notebooks holds: theirs, and those that they read from.

    Parameters
    ----------
    stages
        Of :data:`infra_lib.layout.STAGES`; None or none means all.
    validated
        Whether the study retrains (``validation_subsets``); one that does not has no validation to keep.

    Raises
    ------
    ParameterError
        For a stage of which nothing is recorded.
    """
    found = list(stages or [stage for stage in KEPT if validated or stage != "09_validation"])
    if unkept := [stage for stage in found if stage not in KEPT]:
        raise ParameterError("notebooks", unkept[0], f"of those that are recorded: {', '.join(KEPT)}")
    for stage in found:  # the list grows while it is read
        found += [needed for needed in STAGES[stage] if needed not in found]
    return [stage for stage in KEPT if stage in found]


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
    if folder.exists() and not any((folder / stage).is_dir() for stage in KEPT):
        raise ParameterError("--out", out, "a new folder, or one that holds a study's record")
    return folder


def write_record(
    root: Path, study: str = STUDY, folder: Path | None = None, stages: Sequence[str] | None = None
) -> Path:
    """Keep a study's tables and provenance; return the folder.

    Parameters
    ----------
    folder
        Of :func:`record_folder`; None is ``records/<study>``.
    stages
        Which to keep, of :data:`KEPT`; None keeps all of them. Others stay as they are in the record, but
        for those that were made from another version of what is kept now (:func:`outdated`).

    Raises
    ------
    InfraError
        For a stage that has not run, whose files are damaged, or that was made from changed code (its
        commit could not be found again).
    """
    folder = folder or root / "records" / study
    new = root / "_build" / f"record-{study}"
    shutil.rmtree(new, ignore_errors=True)
    if folder.is_dir():
        shutil.copytree(folder, new)
    for stage in KEPT if stages is None else stages:
        own = stage_folder(study, stage, root)
        record = read_provenance(own)
        if record is None:
            raise InfraError(f"{stage} of study {study} has not run: `infra run --study {study}`")
        if damaged := damaged_files(own, record):
            raise InfraError(f"{own / damaged[0]} is missing or changed: `infra run --study {study}`")
        if "+changes" in record["environment"]["commit"]:
            raise InfraError(f"{stage} ran from changed code; commit, then `infra run --study {study}`")
        shutil.rmtree(new / stage, ignore_errors=True)
        (new / stage).mkdir(parents=True)
        there = [n for n in KEPT_TOO.get(stage, ()) if (own / "data" / f"{n}.parquet").is_file()]
        for name in (*KEPT[stage], *there):
            shutil.copy2(own / "data" / f"{name}.parquet", new / stage / f"{name}.parquet")
        if stage == ARMS:
            answers = load_table(own / "data" / "answers.parquet")
            if missing := [name for name in GRADED if name not in answers]:
                raise DataError(own / "data" / "answers.parquet", f"has no column {missing[0]}")
            answers[list(GRADED)].to_parquet(new / stage / "graded.parquet", index=False)
        found = {key: record[key] for key in PROVENANCE if key in record}
        write_sealed(new / stage / "provenance.json", found | {"digest": data_digest(record)})
    for stage in outdated(new):
        shutil.rmtree(new / stage)
    replace_folder(new, folder)
    list_anew(root / "records", str(folder.relative_to(root / "records")))
    return folder


def outdated(folder: Path) -> list[str]:
    """Return the stages of a record that were made from other data than it holds of the stages they read."""
    records = {
        stage: read_sealed(folder / stage / "provenance.json") for stage in KEPT if (folder / stage).is_dir()
    }
    found: list[str] = []
    for stage in [name for name in STAGES if name in records]:
        for needed, digest in records[stage]["reads"].items():
            if needed in found or (needed in records and records[needed]["digest"] != digest):
                found.append(stage)
                break
    return found


class Record:
    """A study's record, each file checked against its checksum when it is read.

    Attributes
    ----------
    stages
        The stages that it holds.

    Raises
    ------
    DataError
        For a record that holds no stage, lacks a file of one that it holds, or in which a file is torn
        or changed.
    """

    def __init__(self, root: Path, study: str = STUDY) -> None:
        self.root, self.folder = root, root / "records" / study
        self.stages = [stage for stage in KEPT if (self.folder / stage).is_dir()]
        if not self.stages:
            raise DataError(self.folder, "holds no stage of a study")
        for stage in self.stages:
            for name in (*(f"{name}.parquet" for name in KEPT[stage]), "provenance.json"):
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
            study, name = self.provenance(stage)["study"], self.folder.name
            out = "" if study == name else f" --out records/{name}"
            raise DataError(
                path,
                f"has no column {missing[0]}, which this version shows; make the record again: "
                f"infra record {stage[:2]} --study {study}{out}",
            )
        return found

    def optional(self, stage: str, name: str) -> pd.DataFrame | None:
        """Return a table of :data:`KEPT_TOO`, or ``graded``; None where the study has none."""
        path = self.folder / stage / f"{name}.parquet"
        if not path.is_file():
            return None
        check_record(self.root, path)
        return load_table(path)

    def provenance(self, stage: str) -> dict[str, Any]:
        """Return a stage's provenance."""
        return read_sealed(self.folder / stage / "provenance.json")
