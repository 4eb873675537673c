"""The book's page about data: made from the catalog, so that no fact is typed twice."""

from __future__ import annotations

from infra_lib import tables
from infra_lib.sources.catalog import CATALOG, DataSet
from infra_lib.sources.difficulty import RULES
from infra_lib.sources.livecodebench import LEVELS, RELEASES
from infra_lib.sources.prompts import LIVECODEBENCH_STARTER, PROMPTS, Prompt
from infra_lib.sources.traces import CODE_PREFIX, MATH_PREFIX


def fragments() -> dict[str, str]:
    """Return the fragments of ``book/data.md`` by name."""
    return {
        "data_sets": sets_table(),
        "data_columns": columns_table(),
        "data_rules": rules_table(),
        "data_difficulty": difficulty_table(),
        "data_domains": domains_table(),
        "data_prompts": prompts_table(),
        "data_releases": releases(),
    }


def sets_table() -> str:
    """Return where each data set is: name, kind, hub name, configuration and split, licence."""
    rows = [
        [
            _code(entry.name),
            f"{tables.escape(entry.title)} ({tables.escape(entry.kind)})",
            _code(entry.hub) if entry.hub else "generated here",
            _code(" / ".join(filter(None, [entry.config, entry.split]))),
            tables.escape(entry.licence),
        ]
        for entry in CATALOG.values()
    ]
    headers = ["name", "data set", "on the hub", "configuration / split", "licence"]
    return tables.html_table(headers, rows, left=5, label="Data sets", stacked=True)


def columns_table() -> str:
    """Return the columns that must be there, under which names, and those that are used if there."""
    rows = [
        [
            _code(entry.name),
            ", ".join(dict.fromkeys(" or ".join(map(_code, names)) for names in entry.columns)),
            ", ".join(map(_code, entry.optional)) or "none",
        ]
        for entry in CATALOG.values()
    ]
    return tables.html_table(
        ["name", "needed", "used where there"], rows, left=3, label="Columns", stacked=True
    )


def rules_table() -> str:
    """Return how each data set gets domain, difficulty and category, and how answers are scored."""
    rows = [
        [_code(entry.name), *(tables.escape(text) for text in _rules(entry))] for entry in CATALOG.values()
    ]
    return tables.html_table(
        ["name", "domain", "difficulty", "category", "a response is right by"],
        rows,
        left=5,
        label="Rules",
        stacked=True,
    )


def difficulty_table() -> str:
    """Return the rules from labels to difficulties."""
    rows = [[tables.escape(name), tables.escape(text)] for name, text in RULES.items()]
    return tables.html_table(
        ["rule", "difficulty 1 to 5 (our choice)"], rows, left=2, label="Difficulty", stacked=True
    )


def domains_table() -> str:
    """Return the first words by which a training prompt's domain is known."""
    rows = [
        [_code(MATH_PREFIX), "math", "answer"],
        [_code(f"{CODE_PREFIX} The function should take stdin as input …"), "code", "stdin"],
        [_code(f"{CODE_PREFIX} …"), "code", "function"],
        ["anything else", "other", "none"],
    ]
    return tables.html_table(["the prompt begins with", "domain", "category"], rows, left=3, label="Domains")


def prompts_table() -> str:
    """Return the prompt templates, each with the benchmarks that use it and where it is from."""
    users: dict[Prompt, list[str]] = {}
    for name, prompt in PROMPTS.items():
        users.setdefault(prompt, []).append(name)
    rows = [
        [
            ", ".join(map(_code, names)),
            _code(prompt.template),
            tables.escape(prompt.system or "none"),
            tables.escape(prompt.origin),
        ]
        for prompt, names in users.items()
    ]
    starter = PROMPTS["livecodebench"]
    rows.append(
        [
            "<code>livecodebench</code>, with starter code",
            _code(LIVECODEBENCH_STARTER),
            "as above",
            tables.escape(starter.origin),
        ]
    )
    return tables.html_table(
        ["name", "template", "system turn", "from"], rows, left=4, label="Prompts", stacked=True
    )


def releases() -> str:
    """Return the releases and levels of LiveCodeBench that can be named."""
    return (
        f"Releases: {', '.join(map(_code, RELEASES))}; levels: {', '.join(map(_code, LEVELS))}; "
        "windows: <code>start_date</code> and <code>end_date</code>, both days counted."
    )


def _rules(entry: DataSet) -> tuple[str, str, str, str]:
    return entry.domain, entry.difficulty, entry.category, entry.scoring or "not scored"


def _code(text: str) -> str:
    return f"<code>{tables.escape(text)}</code>"
