"""Load a data set or benchmark by name, from the hub or a local folder, with a report of what was left out.

>>> loaded = load("gsm_symbolic", size=2, seed=7)
>>> len(loaded.examples), loaded.report.kept
(2, 2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from infra_lib.errors import DataError, ParameterError
from infra_lib.examples import Example
from infra_lib.sources import livecodebench
from infra_lib.sources.catalog import CATALOG, DataSet
from infra_lib.sources.context import Context
from infra_lib.sources.opening import Report, open_rows
from infra_lib.sources.prompts import check_template
from infra_lib.sources.rows import Dropped, Row, check_columns

DOMAINS = ("math", "code", "other")


@dataclass(frozen=True)
class Loaded:
    """Examples in the order of their rows, and the report."""

    examples: list[Example]
    report: Report


def load(
    name: str,
    source: str | Path | None = None,
    *,
    split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    domains: Sequence[str] | None = None,
    template: str | None = None,
    skip_bad: bool = False,
    progress: bool = False,
    **options: Any,
) -> Loaded:
    """Load a data set.

    Parameters
    ----------
    name
        A name of :data:`infra_lib.sources.catalog.CATALOG`.
    source
        A local folder or file in the hub's format, another hub name with the same columns, ``package``
        (HumanEval), or None for the hub name of the catalog.
    split, config
        Of the hub's layout; None takes the catalog's.
    revision
        Branch, tag or commit on the hub; None is the main branch. What it stood for is in the report.
    limit
        Stop after so many examples.
    domains
        Of training sets: which of math, code and other to keep (default: math and code).
    template
        A prompt with ``{problem}`` in the place of the benchmark's own.
    skip_bad
        Go on after a row that cannot be used and collect its error; otherwise it is raised.
    **options
        ``size`` and ``seed`` of generated sets; ``release``, ``start_date``, ``end_date``, ``levels`` and
        ``platforms`` of LiveCodeBench.

    Raises
    ------
    ParameterError
        For an unknown name, split, configuration, option or revision, with the valid ones.
    DataError
        For a folder that is half a download, missing columns, no rows, a row that cannot be used, or a
        hub that cannot be asked, with what to do.
    """
    entry = _entry(name)
    options = _check(entry, options, limit, domains, template)
    context = Context(name, split or entry.split, tuple(domains or DOMAINS[:2]), template, options)
    config = config if config is not None else entry.config
    reading = open_rows(entry, source, config, revision, context)
    examples: list[Example] = []
    report, seen = reading.report, set[str]()
    for item in tqdm(reading.rows, desc=name, unit="row", disable=not progress, total=reading.total):
        if limit is not None and len(examples) == limit:
            break
        report.rows += 1
        if report.rows == 1 and isinstance(item, Row):
            check_columns(item.where, item.values, entry.columns)
        try:
            found = _parse(entry, item, replace(context, index=report.rows - 1), seen)
        except DataError as error:
            if not skip_bad:
                raise DataError(error.path, f"{error.problem}; {_REMEDY}", error.line) from None
            report.bad.append(error)
            continue
        if isinstance(found, Dropped):
            report.dropped[found.reason] += 1
        else:
            seen.add(found.id)
            examples.append(found)
    report.kept = len(examples)
    report.unlabelled = sum(example.difficulty is None for example in examples)
    _check_count(report, reading.promised, complete=limit is None)
    if not examples:
        raise DataError(report.origin, f"gives no example; {report}")
    return Loaded(examples, report)


_REMEDY = "mend the row, or leave such rows out and have them listed (skip_bad)"


# --- Checks before anything is read --------------------------------------------------------


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise for options that :func:`load` would refuse, without reading anything.

    Raises
    ------
    ParameterError
        Naming the option, with the valid ones.
    """
    others = {key: value for key, value in options.items() if key not in ("domains", "skip_bad")}
    if not isinstance(options.get("skip_bad", False), bool):
        raise ParameterError("skip_bad", options["skip_bad"], "true or false")
    _check(_entry(name), others, None, options.get("domains"), None)


def _entry(name: str) -> DataSet:
    if name not in CATALOG:
        raise ParameterError("name", name, f"one of {', '.join(CATALOG)}")
    return CATALOG[name]


def _check(
    entry: DataSet,
    options: Mapping[str, Any],
    limit: int | None,
    domains: Sequence[str] | None,
    template: str | None,
) -> dict[str, Any]:
    if unknown := [option for option in options if option not in entry.options]:
        known = ", ".join(o for o in entry.options if o != "domains") or "none"
        raise ParameterError(
            unknown[0], options[unknown[0]], f"left out: options of {entry.name} are {known}"
        )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ParameterError("limit", limit, "a whole number from 1, or None")
    if domains is not None and "domains" not in entry.options:
        raise ParameterError("domains", domains, f"left out: {entry.name} has one domain")
    if isinstance(domains, str):
        raise ParameterError("domains", domains, "a list, such as [math]")
    for domain in domains or ():
        if domain not in DOMAINS:
            raise ParameterError("domains", domain, f"of {', '.join(DOMAINS)}")
    check_template(template)
    if template is not None and entry.kind == "training":
        raise ParameterError("template", template, f"left out: {entry.name} has prompts of its own")
    if entry.name == "livecodebench":
        return livecodebench.check_options(options)
    if entry.name == "gsm_symbolic":
        return {"size": 500, "seed": 0, **options}
    return dict(options)


# --- Rows ------------------------------------------------------------------------------------


def _parse(entry: DataSet, item: Row | DataError, context: Context, seen: set[str]) -> Example | Dropped:
    if isinstance(item, DataError):
        raise item
    try:
        found = entry.parse(item, context)
        if isinstance(found, Example):
            _check_text(found)
            if found.id in seen:
                raise ValueError(f"id {found.id!r} occurs twice")
    except ValueError as error:
        # "row" and not "line": a parquet file has rows only, and a JSON line is a row.
        raise DataError(item.where, f"cannot be parsed: {error}", item.number) from None
    return found


def _check_text(example: Example) -> None:
    for name in ("prompt", "response", "answer", "tests", "question", "system"):
        try:
            (getattr(example, name) or "").encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"{name} holds half a surrogate pair, which is no text") from None


def _check_count(report: Report, promised: int | None, *, complete: bool) -> None:
    if report.rows == 0:
        raise DataError(report.origin, f"split {report.split} is empty")
    if complete and promised is not None and report.rows != promised:
        raise DataError(
            report.origin,
            f"has {report.rows:,} rows in {report.split}, its card says {promised:,}: half a download, or "
            "another version than the card's",
        )
