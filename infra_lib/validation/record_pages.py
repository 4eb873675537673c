"""How the book shows records of long studies: their accuracy, influence, arms, claims, and validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from infra_lib import claim_pages, style
from infra_lib import figures as study_figures
from infra_lib import tables as study_tables
from infra_lib.attributes import compare_arms_by_base
from infra_lib.claims import measure_claims
from infra_lib.drawing_functions import numbered
from infra_lib.files import copied
from infra_lib.finetune.config import MIXED
from infra_lib.kinds import show
from infra_lib.kinds.influence import from_others
from infra_lib.markup import escape
from infra_lib.scoring import COSINES
from infra_lib.validation import figures, tables
from infra_lib.validation.record import ARMS, STUDY, VALIDATION, Record
from infra_lib.validation.report import MEAN

ABSENT = "not available: the study <code>full</code> has no record here"
ABSENT_PART = "not available: this part of the study <code>full</code> has no record here"

SECTIONS = {
    "": ("verdict", "lds", "lds_each", "lds_table"),
    "Differences between methods": ("differences",),
    "Noise ceiling": ("ceiling",),
    "Damping": ("dampings",),
    "Which target can be predicted": ("choice", "choice_words"),
    "Removal": ("removal", "removal_table"),
    "Groups removed and doubled": ("agreement", "groups", "groups_table"),
    "Other seeds": ("brittleness", "single"),
}
"""Headings of the record's part of the validation page, and what stands below each."""

PARTS = {
    "full": "09_validation",
    "full_agreement": "09_validation",
    "full_arms": ARMS,
    "full_claims": "06_summary",
}
"""Fragments of the study ``full``, and the stage of the record that each shows."""

BEHIND = {
    "accuracy_by_difficulty": ["03_finetune_evaluate/accuracy_by_difficulty.parquet"],
    "group_influence": ["04_example_influence/group_influence.parquet"],
    "sentence_kinds": ["04_example_influence/sentence_kinds.parquet"],
    "token_classes": ["04_example_influence/token_classes.parquet"],
    "arms": [f"{ARMS}/arms.parquet"],
    "claims": ["06_summary/claims.parquet", "04_example_influence/hard_minus_easy.parquet"],
    **{name: ["09_validation/lds.parquet"] for name in ("lds", "lds_each", "dampings")},
    **{name: [f"09_validation/{name}.parquet"] for name in ("choice", "removal", "groups")},
}
"""The file of a record behind each figure: the first that it holds."""

PAGE = "larger"
"""The page of the studies of larger models."""

_UP_TO_CLAIMS = ("02_base_model", "03_finetune_evaluate", "04_example_influence", ARMS, "06_summary")

LARGER: Mapping[str, tuple[str, ...]] = {
    "larger": _UP_TO_CLAIMS,
    "larger-validation": ("02_base_model", "09_validation"),
    "smollm2-gpu": _UP_TO_CLAIMS,
}
"""Records of larger models, each with one fragment, and the stages that it shows."""


def fragments(root: Path, results: Path) -> dict[str, str]:
    """Return the fragments that show the record, by name; figures go below ``results``.

    What the record does not hold says so.
    """
    style.apply()
    found = {name.replace("-", "_"): _larger(root, name, results, only) for name, only in LARGER.items()}
    records = [Record(root, name) for name in (STUDY, VALIDATION) if (root / "records" / name).is_dir()]
    made = {"full": _validation, "full_agreement": _agreement, "full_arms": _arms, "full_claims": _claims}
    for name, stage in PARTS.items():
        record = next((record for record in records if stage in record.stages), None)
        if record is None:
            found[name] = ABSENT_PART if records else ABSENT
        else:
            found[name] = f"{_badge(record, _behind(record, stage))}\n\n{made[name](record, results)}"
    return found


def _larger(root: Path, name: str, results: Path, only: tuple[str, ...]) -> str:
    """Return what the record of a study of larger models shows, section by section."""
    if not (root / "records" / name).is_dir():
        return f"not available: there is no record <code>records/{name}</code> here"
    record = Record(root, name)
    stages = [stage for stage in record.stages if stage in only]
    sections = {
        "02_base_model": ("The base models", _bases),
        "03_finetune_evaluate": ("Accuracy after fine-tuning", _accuracy),
        "04_example_influence": ("Influence by difficulty, sentence and token", _influence),
        ARMS: ("The arms", _arms),
        "06_summary": ("The claims", _claims),
        "09_validation": ("Do the scores predict retraining?", _validation),
    }
    shown = [_badge(record, record.stages)]
    for stage, (heading, made) in sections.items():
        if stage in stages:
            shown += [f"### {heading}", made(record, results).replace("\n### ", "\n#### ")]
        elif stage == "06_summary" and "04_example_influence" in stages:
            shown += [f"### {heading}", _claims_of_influence(record, results)]
    return "\n\n".join(shown)


def _bases(record: Record, results: Path) -> str:
    """Return size and training of the base models."""
    return study_tables.base_facts_markdown(record.table("02_base_model", "bases"))


def _accuracy(record: Record, results: Path) -> str:
    """Return accuracy by difficulty, and by exam where there are several."""
    stage = "03_finetune_evaluate"
    levels, overall = record.table(stage, "accuracy_by_difficulty"), record.table(stage, "accuracy")
    spoken = "; ".join(f"{study_tables.named(row.domain)} {row.mean:.2f}" for row in overall.itertuples())
    unlabelled = int(overall["n"].sum() - levels.loc[levels["difficulty"].notna(), "n"].sum())
    apart = f", with {unlabelled} problems that have no difficulty" if unlabelled else ""
    runs = study_tables.of_runs(int(overall["runs"].max()))
    drawing = _shown(
        record,
        results,
        "accuracy_by_difficulty",
        study_figures.accuracy_by_difficulty(levels),
        levels,
        f"Accuracy by difficulty on mathematics and code. In all: {spoken}.",
        f"Accuracy by difficulty with intervals, {runs}. In all: {spoken}{apart}.",
        f"/{PAGE}",
    )
    exams = record.optional(stage, "exams")
    return drawing if exams is None else f"{drawing}\n\n{study_tables.exams(exams)}"


def _precision(record: Record) -> list[str]:
    """Return what the precision of the scores is, and how far they agree with float32, below float32."""
    stage = "04_example_influence"
    chosen = record.provenance(stage)["effective"]
    if chosen["precision"] not in MIXED or not chosen["device"].startswith("cuda"):
        return []
    said = f"Scores are computed in {escape(chosen['precision'])}."
    checks = record.optional(stage, "factor_checks")
    if checks is None or "float32_cosine" not in checks:
        return [f"{said} This record has no comparison with float32."]
    low = {name: float(checks[f"float32_{name}"].min()) for name in COSINES}
    count = int(checks["float32_sample"].max())
    return [
        f"{said} The lowest cosine with float32, on a sample of {count} examples or responses: "
        f"{low['cosine']:.4f} of examples' scores, {low['token_cosine']:.4f} of tokens', "
        f"{low['gradient_cosine']:.4f} of the target's gradient."
    ]


def _influence(record: Record, results: Path) -> str:
    """Return influence at the three granularities: examples, sentences, tokens."""
    stage = "04_example_influence"
    groups = record.table(stage, "group_influence")
    sentences, tokens = record.table(stage, "sentence_kinds"), record.table(stage, "token_classes")
    models = int(groups["runs"].max())
    drawn = "examples; one model" if models == 1 else f"models and examples; models: {models}"
    of = f"with intervals over {drawn}"
    parts = [
        _shown(
            record,
            results,
            "group_influence",
            study_figures.influence_forest(groups),
            groups,
            "Mean influence of training examples by domain and difficulty, one panel per target.",
            f"Mean influence by domain and difficulty of the examples, in standard deviations, {of}.",
            f"/{PAGE}",
        ),
        study_tables.hard_minus_easy_table(record.table(stage, "hard_minus_easy")),
        _shown(
            record,
            results,
            "sentence_kinds",
            show.sentence_forest(sentences),
            sentences,
            "Mean influence of each kind of sentence on the mathematics and the code target, with intervals.",
            f"Mean influence by kind of sentence, {of}.",
            f"/{PAGE}",
        ),
        _shown(
            record,
            results,
            "token_classes",
            show.token_forest(tokens),
            tokens,
            "Mean influence of each class of token on the target of its own domain, in both readings.",
            f"Mean influence of training tokens on their own domain's target, by class and reading, {of}.",
            f"/{PAGE}",
        ),
    ]
    if (transfer := record.optional(stage, "transfer")) is not None:
        parts.insert(2, study_tables.transfer_table(transfer))
    return "\n\n".join([*_precision(record), *parts])


def _claims_of_influence(record: Record, results: Path) -> str:
    """Return the claims that scores alone decide, where a record holds no arms."""
    stage = "04_example_influence"
    found = {
        "influence": record.table(stage, "hard_minus_easy"),
        "transfer": record.optional(stage, "transfer"),
        "category": record.optional(stage, "symbolic_minus_conversational"),
        "sentences": record.optional(stage, "exploratory_minus_others"),
        "tokens": from_others(record.table(stage, "token_classes")),
    }
    claims = measure_claims({name: table for name, table in found.items() if table is not None})
    return _claims_shown(record, results, claims, [stage])


def _arms(record: Record, results: Path) -> str:
    """Return every arm's accuracy, and their differences."""
    arms = record.table(ARMS, "arms")
    graded = record.optional(ARMS, "graded")
    place = escape(f"records/{record.folder.name}/{ARMS}/graded.parquet")
    differences, levels = record.table(ARMS, "differences"), record.optional(ARMS, "accuracy_by_difficulty")
    each = []
    if levels is not None and "difficulty" in levels:
        each.append(
            study_tables.folded("Accuracy of every arm by difficulty", study_tables.arm_levels_table(levels))
        )
    if graded is not None:
        pairs = list(dict.fromkeys(zip(differences["arm_a"], differences["arm_b"], strict=True)))
        by_base = study_tables.base_differences_table(compare_arms_by_base(graded, pairs))
        each += [
            study_tables.folded("The same differences, each base by itself", by_base),
            f"Every answer's grade, {len(graded):,} in all, is in <code>{place}</code>.",
        ]
    return "\n\n".join(
        [
            _shown(
                record,
                results,
                "arms",
                study_figures.arms(arms),
                arms,
                "Accuracy on mathematics and code for each arm with intervals.",
                f"Accuracy by arm with intervals, {study_tables.of_runs(int(arms['runs'].max()))} each, "
                f"{' and '.join(str(n) for n in sorted(set(arms['n'])))} problems a domain.",
                _page(record, "/claims/flip"),
            ),
            study_tables.arms_table(arms),
            study_tables.folded(
                "Every difference between arms",
                study_tables.differences_table(differences),
            ),
            *each,
        ]
    )


def _claims(record: Record, results: Path) -> str:
    """Return every effect beside what the paper reports."""
    shown = _claims_shown(record, results, record.table("06_summary", "claims"), ["06_summary"])
    arms = record.optional(ARMS, "differences")
    if arms is None:
        return shown
    origin = f"recorded: {_title(record, [ARMS])}"
    implied = claim_pages.implied(arms, origin, measured_in="measured, recorded")
    words = "Arms that the paper does not report, on the side that its claims imply:"
    return f"{shown}\n\n{words}\n\n{implied}" if implied else shown


def _claims_shown(record: Record, results: Path, claims: pd.DataFrame, stages: list[str]) -> str:
    measured = claims[claims["verdict"] != "not measured"]
    drawing = _shown(
        record,
        results,
        "claims",
        study_figures.verdicts(measured),
        measured,
        "Effects of the recorded study beside the reported direction. "
        + "; ".join(f"{row.test}, {row.says}: {row.verdict}" for row in measured.itertuples()),
        "Every effect that the recorded study measured, with its interval (runs and problems, or examples).",
        _page(record, "/claims"),
    )
    origin = f"recorded: {_title(record, stages)}"
    origins = dict.fromkeys(style.UNITS, origin)
    table = study_tables.claims_table(claims, origins, measured_in="measured, recorded")
    return (
        f"{drawing}\n\n{study_tables.folded('Every effect in numbers, beside what the paper reports', table)}"
    )


def _agreement(record: Record, results: Path) -> str:
    """Return how often forecasts of groups have the sign of what retraining does."""
    return tables.agreement_sentence(record.table("09_validation", "group_agreement"))


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
    # Earlier records have the mean of their targets' ends there, which is no interval.
    ceiling.loc[ceiling["target"] == MEAN, ["low", "high"]] = np.nan
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
        return _shown(record, results, name, figure, data, alt, caption, _page(record, "/validation"))

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
            f"LDS of single responses, averaged, with intervals, {subsets}. Refined directions are of whole "
            "targets, and so is the noise ceiling that was computed.",
        ),
        "lds_table": tables.lds_table(lds),
        "ceiling": tables.ceiling_table(ceiling),
        "differences": study_tables.folded(
            "Every difference between methods", tables.differences_table(differences)
        ),
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
        "choice_words": tables.choice_words(choice),
        "removal": drawn(
            "removal",
            figures.removal(removal),
            removal,
            "Change of each target after training without the most and least helpful examples.",
            f"Change of the target against models trained on everything{figures.removal_words(removal)}. "
            "The noise of those models is in no interval.",
        ),
        "removal_table": study_tables.folded("Every removal", tables.removal_table(removal)),
        "brittleness": study_tables.folded(
            "Agreement between seeds, by method",
            tables.brittleness_table(record.table(stage, "brittleness")),
        ),
        "single": study_tables.folded(
            "One model, and the mean of several", tables.single_table(record.table(stage, "single"), lds)
        ),
        "agreement": _agreement(record, results),
        "groups": drawn(
            "groups",
            figures.groups(groups),
            groups,
            "Change of each target after training without each group of examples, and with twice its weight.",
            f"Change of the target after a group was removed or doubled, {int(groups['seeds'].max())} "
            "retrainings each.",
        ),
        "groups_table": study_tables.folded("Every group, removed and doubled", tables.groups_table(groups)),
    }


def _title(record: Record, stages: list[str]) -> str:
    parts = [record.provenance(stage) for stage in stages]
    commits = sorted({part["environment"]["commit"][:12] for part in parts})
    return f"commit {', '.join(commits)}, {parts[-1]['started'][:10]}"


def _behind(record: Record, stage: str) -> list[str]:
    """Return what a fragment rests on: a stage, or all that the summary summed up."""
    return record.stages[: record.stages.index(stage) + 1] if stage == "06_summary" else [stage]


def _badge(record: Record, stages: list[str]) -> str:
    """Return the badge of recorded stages with their commit, machine and time."""
    parts = [record.provenance(stage) for stage in stages]
    title, last = _title(record, stages), parts[-1]
    time = _duration(sum(part["seconds"] for part in parts) / 3600)
    each = "since its last start"
    whole = each if len(parts) == 1 else f"in {len(parts)} notebooks, each {each}"
    return (
        f"{study_tables.badge('recorded', title)} study <code>{escape(last['study'])}</code>, "
        f"{escape(title)}; {escape(last['environment']['device'])}; "
        f"{time} {whole}; what had finished before is not counted."
    )


def _page(record: Record, usual: str) -> str:
    """Return the page that shows a figure: of a larger model, the one page that has them all."""
    return usual if record.folder.name in (STUDY, VALIDATION) else f"/{PAGE}"


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 0.5 else f"{60 * hours:.0f} minutes"


def _shown(
    record: Record,
    results: Path,
    name: str,
    figure: Figure,
    data: pd.DataFrame,
    alt: str,
    caption: str,
    page: str,
) -> str:
    study = record.folder.name
    folder = results / "figures" / study
    behind = next(path for path in (record.folder / place for place in BEHIND[name]) if path.is_file())
    style.save_figure(
        folder,
        study,
        name,
        figure,
        data=data,
        alt=alt,
        caption=caption,
        page=page,
        results=copied(behind, results, f"data/{study}/{behind.name}"),
    )
    return numbered(study, name)
