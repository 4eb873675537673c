"""The book's generated text: landing page, status, parameters, and what the paper reports.

Pages are written by hand and include these fragments, so that no number on a page is typed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from infra_lib import claim_pages, data_pages, paper, tables
from infra_lib.adapt import record as adapt_record
from infra_lib.card import draw_card
from infra_lib.claims import count_verdicts
from infra_lib.compare import determinism
from infra_lib.drawing_functions import functions_page
from infra_lib.explorer.page import write_explorer
from infra_lib.files import write_text
from infra_lib.frames import rows as each_row
from infra_lib.layout import STAGES
from infra_lib.performance import write_gpu, write_performance
from infra_lib.plan.record import plans_table
from infra_lib.reliability import reliability_page, sandbox_speed
from infra_lib.runner import parameters_cell, read_notebook
from infra_lib.study import Study
from infra_lib.validation import record_pages
from infra_lib.validation.bounds import bounds_fragment


def write_generated(root: Path, study: str, results: Path) -> None:
    """Write every generated fragment to ``results/generated``, and what the explorer loads."""
    records = {
        stage: json.loads((results / f"{stage}.provenance.json").read_text(encoding="utf-8"))
        for stage in STAGES
    }
    claims = pd.read_parquet(results / "data" / "06_summary" / "claims.parquet")
    accuracy = pd.read_parquet(results / "data" / "03_finetune_evaluate" / "accuracy.parquet")
    arms, differences = (
        pd.read_parquet(results / "data" / "05_reweighting_arms" / f"{name}.parquet")
        for name in ("arms", "differences")
    )
    fragments = {
        **landing(claims, accuracy, records),
        **claim_pages.fragments(claims, arms, differences, records),
        "verdict_counts": verdict_counts(claims),
        "status": status(study, records),
        "determinism": determinism(root),
        "reliability": reliability_page(root),
        "sandbox_speed": sandbox_speed(root),
        "parameters": parameters(root),
        "by_hand": by_hand(root),
        "paper_citation": citation(),
        "paper_marks": paper.marks_list(),
        "paper_facts": paper.facts_table(),
        "paper_numbers": paper.numbers_table(),
        "paper_reference": paper.reference_table(),
        "paper_unknown": paper.bullet_list("unknown"),
        "paper_confounds": paper.bullet_list("confounds"),
        **data_pages.fragments(),
        **adapt_record.fragments(root, results),
        **write_performance(root, results),
        **write_gpu(root, results),
        "plans": plans_table(root),
        **record_pages.fragments(root, results),
        "bounds": bounds_fragment(root),
    }
    fragments["functions"] = functions_page(results / "figures")
    for name, text in fragments.items():
        write_text(results / "generated" / f"{name}.md", text.rstrip() + "\n")
    claims.to_csv(results / "generated" / "claims.csv", index=False)
    write_text(results / "generated" / "landing_summary.txt", summary_sentence(claims) + "\n")
    draw_card(results / "generated" / "card.png", claims, study)
    write_explorer(results)


def landing(claims: pd.DataFrame, accuracy: pd.DataFrame, records: dict[str, Any]) -> dict[str, str]:
    """Return the parts of the landing page: the question with the answer, three numbers, and their origin."""
    confidence = records["06_summary"]["effective"]["confidence"]
    chosen = [claims[claims["test"] == test] for test in ("2a", "2b", "1a")]
    cards = [_card(row, confidence, records) for rows in chosen for row in each_row(rows)]
    levels = " and ".join(
        f"{row.mean:.0%} of {tables.named(row.domain)} problems" for row in each_row(accuracy)
    )
    runs = int(accuracy["runs"].max())
    return {
        "landing_answer": f"""<p class="infra-lede">A paper traced a language model's reasoning back to its
training data and concluded: <strong>hard mathematics and easy code</strong> are what stimulates it. This book
repeats the study where it can be repeated many times: {answer(claims)}</p>
""",
        "landing_cards": f"""<div class="infra-cards">
{chr(10).join(cards)}
</div>
""",
        "landing_origin": f"""{tables.badge("computed", _origin(records))} every interval and verdict: a small
transformer, trained and graded here for real, solves {levels} after fine-tuning ({tables.of_runs(runs)}).
{tables.badge("reported", "from the paper, not computed here")} the paper's own numbers, from models thousands
of times larger; they stand beside ours on {{doc}}`claims`.
""",
    }


def summary_sentence(claims: pd.DataFrame) -> str:
    """Return the answer as plain text, for those who see a link to the book."""
    said = re.sub(r"<[^>]*>", "", answer(claims))
    return f"Hard mathematics and easy code, says a paper. This book runs the experiments again: {said}"


def answer(claims: pd.DataFrame) -> str:
    """Return how the claims fared, in a sentence made of counts."""
    measured = claims[claims["verdict"] != "not measured"]
    counts = count_verdicts(measured)
    return (
        f"of {len(measured)} effects that it measured, <strong>{counts['reproduced']} came out as reported, "
        f"{counts['not reproduced']} the other way round, and {counts['undecided']} are undecided</strong>."
    )


def verdict_counts(claims: pd.DataFrame) -> str:
    """Return the counts of verdicts as tags."""
    return f'<p class="counts">{claim_pages.counts(claims)}</p>'


def _card(row: Any, confidence: float, records: dict[str, Any]) -> str:
    if row.verdict == "not measured":
        value, interval = tables.NOT_AVAILABLE, "this build has no experiment for it"
    else:
        value = f"{row.mean:+.{row.digits}f}".replace("-", "−")
        stage = "05_reweighting_arms" if row.unit == "accuracy" else "04_example_influence"
        value = tables.tip(value, claim_pages.provenance_line(records, stage))
        low, high = (f"{v:+.{row.digits}f}".replace("-", "−") for v in (row.low, row.high))
        interval = (
            f"{confidence:.0%} interval [{low}, {high}] {row.unit}; {tables.of_runs(row.runs)}, n = {row.n}"
        )
    return (
        f'<div class="infra-card"><div class="value">{value} {tables.verdict_tag(row.verdict)}</div>'
        f'<div class="what">{tables.escape(row.says)}</div><div class="range">{interval}</div></div>'
    )


def _origin(records: dict[str, Any]) -> str:
    record = records["06_summary"]
    return f"study {record['study']}, commit {record['environment']['commit'][:12]}, {record['started'][:10]}"


def status(study: str, records: dict[str, Any]) -> str:
    """Return what this build was made with and how long each notebook took."""
    total = sum(record["seconds"] for record in records.values())
    last = records["06_summary"]
    return f"""{tables.badge("computed", _origin(records))} Study **{tables.escape(study)}**, computed on
{tables.escape(last["environment"]["device"])} ({tables.escape(last["environment"]["system"])});
the notebooks took {total / 60:.1f} minutes in all, training runs that were reused not counted.

## Notebooks

{tables.provenance_table(records)}

## Versions

{tables.versions_table(last["environment"]["versions"])}
"""


def parameters(root: Path) -> str:
    """Return every parameter with its default, meaning and the notebook that declares it."""
    rows = []
    seen = set()
    for stage in STAGES:
        for line in parameters_cell(read_notebook(root, stage)).splitlines():
            name = line.split(":", 1)[0].strip()
            if name in seen or name not in Study.model_fields:
                continue
            seen.add(name)
            default, _, comment = line.split("=", 1)[1].partition("  # ")
            valid = str(Study.model_fields[name].description)
            rows.append(
                [
                    f"<code>{tables.escape(name)}</code>",
                    f"<code>{tables.escape(default.strip())}</code>",
                    tables.escape(comment),
                    tables.escape(valid),
                    stage[:2],
                ]
            )
    headers = ["parameter", "default", "meaning", "it must be", "notebook"]
    table = tables.html_table(headers, rows, left=4, label="Parameters", stacked=True)
    return tables.folded(f"All {len(rows)} parameters", table)


def by_hand(root: Path) -> str:
    """Return the README's plain commands, so that the book and the README cannot differ."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    part = readme[readme.index("<details>") : readme.index("</details>")]
    return part.split("</summary>")[1].strip()


def citation() -> str:
    """Return the paper's citation line."""
    about = paper.load_paper()["paper"]
    return (
        f"**{about['title']}** (Infra). {about['authors']}, {about['institution']}. arXiv {about['arxiv']}, "
        f"{about['date']}; {about['venue']} {{cite:p}}`kou2025infra`."
    )
