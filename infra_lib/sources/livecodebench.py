"""LiveCodeBench, code generation: contest problems with dates, graded by hidden cases.

Columns: ``question_title``, ``question_content``, ``platform``, ``question_id``, ``contest_id``,
``contest_date``, ``starter_code``, ``difficulty``, ``public_test_cases`` (JSON), ``private_test_cases``
(:mod:`infra_lib.sources.private_cases`), ``metadata`` (JSON, with ``func_name`` for functional problems).

Published as the files ``test.jsonl``, ``test2.jsonl``, …; *release_vN* is the first N of them
(``release="v2"`` is May 2023 to May 2024, 511 problems). Difficulty: easy 1, medium 3, hard 5.

Options: ``release``, ``start_date`` and ``end_date`` (``YYYY-MM-DD``, both days count, as in the official
scores), ``levels`` (of easy, medium, hard), ``platforms``.

``tests`` holds JSON: ``{"function": name or null, "public": [cases], "private": column as published}``.
The private cases of a release are gigabytes when unpacked, so they stay packed until they are graded;
they are decoded once while loading to see that they can be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from infra_lib.errors import ParameterError
from infra_lib.examples import Example
from infra_lib.sources import difficulty
from infra_lib.sources.context import Context
from infra_lib.sources.private_cases import decode_cases
from infra_lib.sources.rows import BadRow, Dropped, Row, optional_text, shorten, text, value

RELEASES = {"v1": 400, "v2": 511, "v3": 612, "v4": 713, "v5": 880, "v6": 1055}
"""Releases, and how many problems each has; each holds those before it."""
LEVELS = ("easy", "medium", "hard")
PLATFORMS = ("leetcode", "codeforces", "atcoder")


def files_of(release: str) -> list[str]:
    """Return the files that make up a release, such as ``v2`` or ``release_v2``."""
    name = str(release).removeprefix("release_")
    if name not in RELEASES:
        raise ParameterError("release", release, f"one of {', '.join(RELEASES)}")
    return ["test.jsonl", *(f"test{number}.jsonl" for number in range(2, list(RELEASES).index(name) + 2))]


def gaps(names: Sequence[str]) -> list[str]:
    """Return the published files that are missing before the last of those that are there."""
    order = files_of(list(RELEASES)[-1])
    last = max((order.index(name) for name in names if name in order), default=-1)
    return [name for name in order[:last] if name not in names]


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with dates read.

    Raises
    ------
    ParameterError
        For an unknown release, a date that is none, a window that ends before it begins, an unknown level or
        platform.
    """
    checked = dict(options)
    if checked.get("release") is not None:
        files_of(checked["release"])
    for name in ("start_date", "end_date"):
        if checked.get(name) is not None:
            try:
                checked[name] = date.fromisoformat(str(checked[name]))
            except ValueError:
                raise ParameterError(name, options[name], "a date such as 2024-08-01") from None
    start, end = checked.get("start_date"), checked.get("end_date")
    if start and end and end < start:
        raise ParameterError("end_date", options["end_date"], f"{start} or later")
    for name, known in (("levels", LEVELS), ("platforms", PLATFORMS)):
        chosen = checked.get(name) or known
        for item in [chosen] if isinstance(chosen, str) else chosen:
            if item not in known:
                raise ParameterError(name, item, f"one of {', '.join(known)}")
        checked[name] = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    return checked


def parse(row: Row, context: Context) -> Example | Dropped:
    """Return a row as an example, or as dropped where it lies outside the window or selection."""
    level, platform = text(row.values, "difficulty").lower(), text(row.values, "platform").lower()
    rank = difficulty.from_word(level)
    when = contest_day(value(row.values, "contest_date"))
    if left_out := outside(when, level, platform, context.options):
        return Dropped(left_out)
    public = decode_cases(text(row.values, "public_test_cases"))
    private = text(row.values, "private_test_cases")
    function = function_name(row.values)
    wanted = "stdin" if function is None else "functional"
    for case in [*public, *decode_cases(private)]:
        if case["testtype"] != wanted:
            raise BadRow(f"a test case is {case['testtype']}, the problem is {wanted} (metadata.func_name)")
    content, starter = text(row.values, "question_content"), optional_text(row.values, "starter_code")
    return Example(
        id=f"livecodebench/{text(row.values, 'question_id')}",
        domain="code",
        prompt=context.prompt(content, starter=starter),
        response="",
        difficulty=rank,
        category=platform,
        tests=json.dumps({"function": function, "public": public, "private": private}),
        question=f"{optional_text(row.values, 'question_title')}\n{content}",
        system=context.system,
        scoring="livecodebench",
        date=when.isoformat(),
    )


def outside(when: date, level: str, platform: str, options: Mapping[str, Any]) -> str | None:
    """Return why a problem is left out, or None."""
    start, end = options.get("start_date"), options.get("end_date")
    if (start and when < start) or (end and when > end):
        return "contest date"
    if level not in options.get("levels", LEVELS):
        return f"level {level}"
    return f"platform {platform}" if platform not in options.get("platforms", PLATFORMS) else None


def contest_day(given: Any) -> date:
    """Return the day of a contest, from ISO text or what a reader made of it."""
    if isinstance(given, datetime):
        return given.date()
    try:
        return datetime.fromisoformat(given).date()
    except (TypeError, ValueError):
        raise BadRow(f"contest_date is {shorten(given)}; it must be a date such as 2024-08-01") from None


def function_name(row: Mapping[str, Any]) -> str | None:
    """Return the function that functional cases call, or None for a problem on standard input."""
    found = value(row, "metadata", default="{}")
    try:
        metadata = json.loads(found) if isinstance(found, str) else found
    except (ValueError, RecursionError):
        raise BadRow(f"metadata is no JSON ({shorten(found)})") from None
    name = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise BadRow(f"metadata.func_name is {shorten(name)}; it must be the name of a function")
    return name
