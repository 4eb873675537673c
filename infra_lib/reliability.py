"""What the tests of faults, bad inputs, attacks and fuzzing found, as the reliability page shows it.

The tests write it themselves (``tests/reliability_plugin.py``): one entry per test with its
kind, title, result, the number of inputs that it tried and what came of them. A record of a
whole session is kept in ``records/reliability.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra_lib import tables
from infra_lib.checksums import check_record
from infra_lib.errors import DataError
from infra_lib.files import digest_of, file_digest, read_sealed
from infra_lib.reading import load_json

KINDS: dict[str, str] = {
    "fault": "faults injected",
    "bad input": "bad inputs",
    "attack": "attacks by programs",
    "fuzz": "fuzzing",
}
"""Kinds of test, and what they are called on the page."""

RECORD = "reliability.json"

SEARCHED = '<p class="infra-filter" hidden></p>\n'
"""Stands before a table; ``book/_static/filter.js`` puts the search field into it."""


def source_digest_of(root: Path) -> str:
    """Return one digest of the library, the notebooks and the tests: what a test result speaks of."""
    paths = [path for part in ("infra_lib", "notebooks", "tests") for path in (root / part).rglob("*.py")]
    return digest_of({str(path.relative_to(root)): file_digest(path) for path in sorted(paths)})


def read_reliability(root: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the test results to show, and the badge that they carry.

    Results of a whole session on the very sources of this build are *computed in this build*;
    otherwise the record is shown, as a *recorded run*; None where there is neither.

    Raises
    ------
    DataError
        For a record that is torn or changed.
    """
    built = _read(root / "_build" / "reliability.json")
    if built and built["whole"] and built["sources"] == source_digest_of(root):
        return built, "computed"
    kept = root / "records" / RECORD
    if not kept.exists():
        return None, "recorded"
    check_record(root, kept)
    return read_sealed(kept), "recorded"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_sealed(path)
    except (OSError, DataError):
        return None


def _letters(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def grouped(tests: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per kind and title: a test's cases together, but every attack by itself.

    Returns
    -------
    list of dict
        kind, title, cases, held, failed, not_run (counts of cases), inputs, outcomes (distinct, in order).
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name, test in tests.items():
        case = name[name.index("[") + 1 : -1] if name.endswith("]") else ""
        title = test["title"]
        # Many a case is called after its title, with dashes for spaces: that is said once.
        if test["kind"] == "attack" and _letters(case) not in ("", _letters(title)):
            title = f"{title}: {case}"
        row = rows.setdefault(
            (test["kind"], title),
            {"kind": test["kind"], "title": title, "cases": 0, "held": 0, "failed": 0, "not run": 0}
            | {"inputs": 0, "outcomes": []},
        )
        row["cases"] += 1
        row[test["result"]] += 1
        if test["result"] != "not run":
            row["inputs"] += test["inputs"]
        if test["outcome"] and test["outcome"] not in row["outcomes"]:
            row["outcomes"].append(test["outcome"])
    order = list(KINDS)
    return sorted(rows.values(), key=lambda row: (order.index(row["kind"]), row["title"].lower()))


def reliability_page(root: Path) -> str:
    """Return the generated part of the reliability page: counts by kind, and every test in a table."""
    record, kind = read_reliability(root)
    if record is None:
        return "No results of these tests are at hand (not available): `make reliability` makes them."
    rows = grouped(record["tests"])
    return "\n".join(
        [
            _origin(record, kind),
            '<div class="infra-cards small">',
            *(_card(name, [row for row in rows if row["kind"] == name]) for name in KINDS),
            "</div>",
            "",
            "## Every test",
            "",
            SEARCHED + _table(rows),
        ]
    )


def _origin(record: Mapping[str, Any], kind: str) -> str:
    commit, _, changed = record["environment"]["commit"].partition("+")
    where = f"commit {commit[:12]}{' with changes' if changed else ''}, {record['when'][:10]}"
    seconds = record["seconds"]
    took = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    later = [
        f" {len(note['tests'])} of them {'was' if len(note['tests']) == 1 else 'were'} run again at commit "
        f"{note['environment']['commit'][:12]}, {note['when'][:10]}."
        for note in record.get("again", [])
    ]
    return (
        f"{tables.badge(kind, where)} {len(record['tests'])} tests ({tables.escape(where)}), on "
        f"{tables.escape(record['environment']['device'])}, in {took}.{tables.escape(''.join(later))}\n"
    )


def sandbox_speed(root: Path) -> str:
    """Return what walling programs off costs, from the recorded benchmark; that there is none, where so."""
    path = root / "records" / "benchmarks" / "sandbox.json"
    if not path.exists():
        return f"What it costs to wall a program off has not been recorded: {tables.NOT_AVAILABLE}."
    check_record(root, path)
    record = load_json(path)
    rows = [
        [workers, *(f"{rates[way]:.1f}" for way in ("sandbox", "process", "plain"))]
        for workers, rates in record["programs_per_second_by_workers"].items()
    ]
    where = f"{record['device']}, commit {str(record['commit'])[:12]}"
    headers = ["programs at once", "in namespaces", "limits alone", "plain interpreter, nothing graded"]
    table = tables.html_table(headers, rows, left=1, label="Programs per second in the sandbox")
    overhead = f"{record['overhead_ms_per_program']:.1f} ms"
    return (
        f"{tables.badge('recorded', where)} Programs per second, {record['programs_each']} of each kind on "
        f"{tables.escape(where)}. Namespaces cost {overhead} a program beside "
        f"limits alone. A plain interpreter loads its site packages; those in the sandbox do not.\n\n{table}"
    )


def _card(kind: str, rows: Sequence[Mapping[str, Any]]) -> str:
    cases, held, failed, absent = (
        sum(row[name] for row in rows) for name in ("cases", "held", "failed", "not run")
    )
    inputs = sum(row["inputs"] for row in rows)
    if failed:
        verdict, what = "not-reproduced", f"{failed} failed"
    elif absent or not cases:
        verdict, what = "undecided", f"{absent} not run" if absent else "none yet"
    else:
        verdict, what = "reproduced", "all held"
    return (
        f'<div class="infra-card"><div class="value">{held:,} of {cases:,}</div>'
        f'<div class="range">held; {inputs:,} {"input" if inputs == 1 else "inputs"} tried</div>'
        f'<div class="what">{KINDS[kind]}</div><span class="verdict-{verdict}">{what}</span></div>'
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        if row["failed"]:
            result = f'<span class="verdict-not-reproduced">{row["failed"]} failed</span>'
        elif row["held"]:
            result = '<span class="verdict-reproduced">held</span>'
        else:
            result = '<span class="verdict-undecided">not run</span>'
        cells.append(
            [
                tables.escape(row["kind"]),
                tables.escape(row["title"]),
                "<br>".join(tables.escape(text) for text in row["outcomes"]) or "–",
                f"{row['inputs']:,}",
                result,
            ]
        )
    headers = ["kind", "what was tried", "what came of it", "inputs", "result"]
    return tables.html_table(headers, cells, left=3, label="Tests of reliability")
