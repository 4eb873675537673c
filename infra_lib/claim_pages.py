"""The book's pages of claims: reported beside measured, for each claim, and once in full.

Pages are written by hand (``book/claims/``); what a run decides comes in as fragments made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from infra_lib import tables
from infra_lib.claims import count_verdicts, measure_implied
from infra_lib.frames import rows as each_row
from infra_lib.paper import load_paper, mark_says
from infra_lib.style import UNITS

MEASURED_AS = {
    "AIME24": "math",
    "AIME25": "math",
    "MATH500": "math",
    "GSM8K": "math",
    "LiveCodeBench": "code",
    "MBPP": "code",
}
"""The domain of this study that stands in for a benchmark of the paper."""

ARM_OF = {
    "untuned": "untuned",
    "before": "uniform",
    "flip": "flip",
    "reverse": "reverse",
    "removed": "without_exploration",
}
"""Our arm for each of the paper's."""


def fragments(
    claims: pd.DataFrame, arms: pd.DataFrame, differences: pd.DataFrame, records: Mapping[str, Any]
) -> dict[str, str]:
    """Return the fragments of the claims' pages by name.

    Parameters
    ----------
    claims
        As :func:`infra_lib.claims.measure_claims` gives them.
    arms
        Accuracy of arms: arm, domain, mean, low, high, runs, n.
    differences
        Between arms, as :func:`infra_lib.claims.measure_implied` takes them.
    records
        Provenance records by stage.
    """
    made = {
        "claims_overview": overview(claims),
        "claims_full": tables.claims_table(claims, origins(records)),
        "claims_implied": implied(differences, origins(records)["accuracy"])
        or "The study of this build has no such arm.",
        "numbers_beside": numbers_beside(arms, provenance_line(records, "05_reweighting_arms")),
    }
    for claim in load_paper()["claims"]:
        rows = claims[claims["claim"] == claim["id"]]
        made[f"claim_{claim['page']}"] = claim_head(claim, rows)
        made[f"claim_{claim['page']}_table"] = tables.claims_table(rows, origins(records))
    return made


def origins(records: Mapping[str, Any]) -> dict[str, str]:
    """Return where effects come from, by their unit: accuracies from the arms, scores from influence."""
    stages = {unit: "05_reweighting_arms" if unit == "accuracy" else "04_example_influence" for unit in UNITS}
    return {unit: provenance_line(records, stage) for unit, stage in stages.items()}


def provenance_line(records: Mapping[str, Any], stage: str) -> str:
    """Return where a stage's numbers come from, in a line: notebook, study, commit, seeds, device, time."""
    record = records[stage]
    seeds = ", ".join(
        f"{k.replace('_', ' ')} {v}" for k, v in record["seeds"].items() if k in record["effective"]
    )
    return (
        f"computed in this build by notebook {stage}: study {record['study']}, "
        f"commit {record['environment']['commit'][:12]}, {seeds}, {record['environment']['device']}, "
        f"{record['started'][:16].replace('T', ' ')} UTC"
    )


def counts(rows: pd.DataFrame) -> str:
    """Return the verdicts that occur, each with its count, as tags."""
    found = [(verdict, count) for verdict, count in count_verdicts(rows).items() if count]
    return " ".join(f'<span class="count">{n} × {tables.verdict_tag(v)}</span>' for v, n in found)


def in_words(rows: pd.DataFrame) -> str:
    """Return how a claim fared, in one sentence made of counts."""
    total = len(rows)
    found = count_verdicts(rows)
    if found["not measured"] == total:
        return "This build has no experiment for it, so it says nothing about it."
    measured = total - found["not measured"]
    if found["reproduced"] == measured:
        return "Every effect that was measured came out as reported."
    if found["not reproduced"] == measured:
        return "Every effect that was measured came out the other way round."
    if found["undecided"] == measured:
        return "No effect that was measured can be told from zero."
    said = [
        f"{found['reproduced']} as reported",
        f"{found['not reproduced']} the other way round",
        f"{found['undecided']} undecided",
    ]
    return (
        f"Of {measured} effects that were measured: {', '.join(s for s in said if not s.startswith('0 '))}."
    )


def claim_head(claim: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """Return the head of a claim's page: the claim, as reported, and the verdict, as computed."""
    sure = tables.badge("reported", mark_says(claim.get("mark")))
    return f"""<div class="claim-head">
<div class="claim-says"><div class="claim-label">The claim {sure}</div>
<blockquote><p>{tables.escape(claim["claim"])}</p></blockquote></div>
<div class="claim-verdict"><div class="claim-label">The verdict {tables.badge("computed")}</div>
<p>{in_words(rows)}</p><p class="counts">{counts(rows)}</p></div>
</div>
"""


def implied(differences: pd.DataFrame, origin: str, *, measured_in: str = "measured in this build") -> str:
    """Return the verdicts on arms that the paper does not report, counted and tabled; nothing for none."""
    found = measure_implied(differences)
    if found.empty:
        return ""
    table = tables.claims_table(found, {"accuracy": origin}, measured_in=measured_in)
    return (
        f'<p class="counts">{counts(found)}</p>\n\n{tables.folded("Every implied effect in numbers", table)}'
    )


def overview(claims: pd.DataFrame) -> str:
    """Return one row per claim: its page, what it says, and its verdicts."""
    rows = []
    for claim in load_paper()["claims"]:
        part = claims[claims["claim"] == claim["id"]]
        link = f'<a href="claims/{claim["page"]}.html">{claim["id"]} · {tables.escape(claim["title"])}</a>'
        rows.append([link, tables.escape(claim["claim"]), f'<div class="counts">{counts(part)}</div>'])
    return tables.html_table(
        ["claim", "what the paper says", "what came out here"],
        rows,
        left=3,
        label="The claims and their verdicts",
        stacked=True,
    )


def numbers_beside(arms: pd.DataFrame, origin: str) -> str:
    """Return the paper's numbers, every cell of its experiments, beside ours; what is unknown says so."""
    numbers = pd.DataFrame(load_paper()["numbers"])
    ours = {(r.arm, r.domain): r for r in each_row(arms)}
    parts = []
    for experiment, group in numbers.groupby("experiment", sort=False):
        columns = ["untuned", *dict.fromkeys(group["arm"])]
        known = {(r.model, r.benchmark, r.arm): r for r in each_row(group)}
        rows = [
            [
                f"{tables.escape(model)} · {tables.escape(benchmark)}<br>{tables.badge('reported')}",
                *(_reported(known.get((model, benchmark, arm))) for arm in columns),
            ]
            for model, benchmark in dict.fromkeys((r.model, r.benchmark) for r in each_row(group))
        ]
        for domain in dict.fromkeys(MEASURED_AS[name] for name in group["benchmark"]):
            cells = [_ours(ours.get((ARM_OF[arm], domain)), origin) for arm in columns]
            rows.append(
                [f"this study · {tables.named(domain)}<br>{tables.badge('computed', origin)}", *cells]
            )
        name = str(experiment)
        headers = ["model · exam", *(ARM_HEADERS.get(arm, arm) for arm in columns)]
        parts.append(
            f"### {name.capitalize()}\n\n"
            + tables.html_table(headers, rows, left=1, label=name, stacked=True)
        )
    return "\n".join(parts)


ARM_HEADERS = {"before": "before (uniform)", "removed": "exploration removed"}


def _reported(number: Any) -> str:
    if number is None:
        return tables.NOT_AVAILABLE
    note = mark_says(number.mark) + (f"; {number.note}" if isinstance(number.note, str) else "")
    return tables.tip(f"{number.value:g} {tables.escape(number.unit)}", note)


def _ours(row: Any, origin: str) -> str:
    if row is None:
        return tables.NOT_AVAILABLE
    shown = [f"{100 * value:.1f}" for value in (row.mean, row.low, row.high)]
    size = f"<br><small>{tables.of_runs(row.runs)}, {row.n} problems</small>"
    return tables.tip(f"{shown[0]} % [{shown[1]}, {shown[2]}]", origin) + size
