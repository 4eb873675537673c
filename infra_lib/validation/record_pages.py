"""How the book shows the record of a long study: its validation, its arms, and its claims."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from infra_lib import figures as study_figures
from infra_lib import style
from infra_lib import tables as study_tables
from infra_lib.markup import escape
from infra_lib.validation import figures, tables
from infra_lib.validation.record import STUDY, Record
from infra_lib.validation.report import MEAN

ABSENT = "not available: the study <code>full</code> has no record here"
ABSENT_PART = "not available: this part of the study <code>full</code> has no record here"

SECTIONS = {
    "": ("verdict", "lds", "lds_each", "lds_table"),
    "Differences between methods": ("differences",),
    "Noise ceiling": ("ceiling",),
    "Damping": ("dampings",),
    "Which target can be predicted": ("choice",),
    "Removal": ("removal",),
    "Groups removed and doubled": ("agreement", "groups", "groups_table"),
    "Other seeds": ("brittleness",),
}
"""Headings of the record's part of the validation page, and what stands below each."""

PARTS = {"full": "09_validation", "full_arms": "05_reweighting_arms", "full_claims": "06_summary"}
"""Fragments, and the stage of the record that each shows."""


def fragments(root: Path, results: Path) -> dict[str, str]:
    """Return the fragments that show the record, by name; figures go below ``results``.

    What the record does not hold says so.
    """
    if not (root / "records" / STUDY).is_dir():
        return dict.fromkeys(PARTS, ABSENT)
    record = Record(root)
    style.apply()
    made = {"full": _validation, "full_arms": _arms, "full_claims": _claims}
    return {
        name: f"{_badge(record, [stage])}\n\n{made[name](record, results)}"
        if stage in record.stages
        else ABSENT_PART
        for name, stage in PARTS.items()
    }


def _arms(record: Record, results: Path) -> str:
    """Return every arm's accuracy, and their differences."""
    arms = record.table("05_reweighting_arms", "arms")
    return "\n\n".join(
        [
            _shown(
                results,
                "arms",
                study_figures.arms(arms),
                arms,
                "Accuracy on mathematics and code for each arm with intervals.",
                f"Accuracy by arm, {int(arms['runs'].max())} runs each.",
                "/claims/flip",
            ),
            study_tables.arms_table(arms),
            study_tables.differences_table(record.table("05_reweighting_arms", "differences")),
        ]
    )


def _claims(record: Record, results: Path) -> str:
    """Return every effect beside what the paper reports."""
    claims = record.table("06_summary", "claims")
    measured = claims[claims["verdict"] != "not measured"]
    drawing = _shown(
        results,
        "claims",
        study_figures.verdicts(measured),
        measured,
        "Effects of the long study beside the reported direction. "
        + "; ".join(f"{row.test}, {row.says}: {row.verdict}" for row in measured.itertuples()),
        "Every effect that the long study measured, with its interval.",
        "/claims",
    )
    origin = f"recorded: {_title(record, ['06_summary'])}"
    origins = dict.fromkeys(style.UNITS, origin)
    return f"{drawing}\n\n{study_tables.claims_table(claims, origins)}"


def _validation(record: Record, results: Path) -> str:
    """Return the record's part of the validation page, section by section."""
    shown = _validation_parts(record, results)
    return "\n\n".join(
        "\n\n".join([f"### {heading}"] * bool(heading) + [shown[name] for name in names])
        for heading, names in SECTIONS.items()
    )


def _validation_parts(record: Record, results: Path) -> dict[str, str]:
    """Return the tables, figures and sentences that :data:`SECTIONS` names."""
    stage = "09_validation"
    lds, ceiling = record.table(stage, "lds"), record.table(stage, "ceiling")
    differences = record.table(stage, "differences")
    held = lds[(lds["selection"] == "held out") & (lds["unit"] == "target")]
    each = lds[(lds["selection"] == "held out") & (lds["unit"] == "response")]
    fixed = lds[(lds["selection"] == "fixed") & (lds["unit"] == "target")]
    choice, removal = record.table(stage, "choice"), record.table(stage, "removal")
    subsets = f"{int(held['subsets'].max())} subsets, {int(held['seeds'].max())} retrainings each"
    spoken = "; ".join(
        f"{figures.METHOD_NAMES[row.method]} {row.lds:.2f}"
        for row in held[held["target"] == MEAN].itertuples()
    )

    def drawn(name: str, figure: Figure, data: pd.DataFrame, alt: str, caption: str) -> str:
        return _shown(results, name, figure, data, alt, caption, "/validation")

    groups = record.table(stage, "groups")
    return {
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
        "agreement": tables.agreement_sentence(record.table(stage, "group_agreement")),
        "groups": drawn(
            "groups",
            figures.groups(groups),
            groups,
            "Change of each target after training without each group of examples, and with twice its weight.",
            f"Change of the target after a group was removed or doubled, {int(groups['seeds'].max())} "
            "retrainings each.",
        ),
        "groups_table": tables.groups_table(groups),
    }


def _title(record: Record, stages: list[str]) -> str:
    parts = [record.provenance(stage) for stage in stages]
    commits = sorted({part["environment"]["commit"][:12] for part in parts})
    return f"commit {', '.join(commits)}, {parts[-1]['started'][:10]}"


def _badge(record: Record, stages: list[str]) -> str:
    """Return the badge of recorded stages with their commit, machine and time."""
    parts = [record.provenance(stage) for stage in stages]
    title, last = _title(record, stages), parts[-1]
    hours = sum(part["seconds"] for part in parts) / 3600
    return (
        f"{study_tables.badge('recorded', title)} study <code>{escape(last['study'])}</code>, "
        f"{escape(title)}; {escape(last['environment']['device'])}; {hours:.1f} hours for this notebook."
    )


def _shown(
    results: Path, name: str, figure: Figure, data: pd.DataFrame, alt: str, caption: str, page: str
) -> str:
    folder = results / "figures" / "full"
    style.save_figure(folder, "full", name, figure, data=data, alt=alt, caption=caption, page=page)
    return (folder / f"{name}.md").read_text(encoding="utf-8")
