"""Tables and sentences of the validation as fragments of the book: data frames in, markup out."""

from __future__ import annotations

import numpy as np
import pandas as pd

from infra_lib.frames import rows as each_row
from infra_lib.markup import escape
from infra_lib.style import name_of
from infra_lib.tables import NOT_AVAILABLE, html_table, interval, p_value
from infra_lib.validation.figures import METHOD_NAMES, choice_name, group_name, in_order
from infra_lib.validation.report import MEAN

NOT_RUN = "This study leaves the validation out (<code>validation_subsets: 0</code>)."
NO_GROUPS = (
    "This study retrains no group of examples (<code>group_levels: []</code>, "
    "<code>group_categories: []</code>)."
)
GOAL = 0.5
"""LDS that EK-FAC, or its best refinement, was to reach."""


UNITS = {"response": "of single responses, averaged", "target": "of the mean of all responses"}
"""Two ways to read an LDS, in words."""


def lds_table(frame: pd.DataFrame) -> str:
    """Return held-out LDS by method and target with intervals, for both units."""
    return "\n\n".join(
        f"<p>LDS {words}:</p>\n\n" + _lds_table(frame[frame["unit"] == unit]) for unit, words in UNITS.items()
    )


def _lds_table(frame: pd.DataFrame) -> str:
    held = frame[frame["selection"] == "held out"]
    targets = sorted(held["target"].unique(), key=lambda t: (t == MEAN, t), reverse=True)
    cells = {(row.method, row.target): row for row in each_row(held)}
    rows = []
    for method in in_order(held["method"]):
        own = [cells[method, target] for target in targets]
        rows.append(
            [
                METHOD_NAMES[method],
                escape(own[0].dampings or "–"),
                *(interval(row.lds, row.low, row.high, digits=2) for row in own),
            ]
        )
    heads = ["mean" if target == MEAN else f"on {name_of(target)}" for target in targets]
    return html_table(["method", "damping of each half", *heads], rows, left=2, label="LDS by method")


def ceiling_table(frame: pd.DataFrame) -> str:
    """Return the noise ceiling by target, or a line where it was not measured."""
    if frame.empty:
        return "The noise ceiling was not measured: no subset was retrained with two seeds."
    rows = [
        [
            "mean" if row.target == MEAN else f"on {escape(name_of(row.target))}",
            f"{row.single:.2f}",
            f"{row.reliability:.2f}",
            f"{row.ceiling:.2f}" if pd.isna(row.low) else interval(row.ceiling, row.low, row.high, digits=2),
            f"{row.subsets:.0f} × {row.repeats:.0f}",
        ]
        for row in each_row(frame)
    ]
    heads = ["target", "between single retrainings", "reliability", "ceiling", "subsets × seeds"]
    return html_table(heads, rows, label="Noise ceiling")


def choice_words(frame: pd.DataFrame) -> str:
    """Say which choice of the target is predicted best, by itself and on the outcome common to all.

    Columns as :func:`infra_lib.validation.report.choice_table`. Beside the best stands the plain choice, the
    whole of the model's own correct responses, which the notebook of influence takes, and how many choices
    are in reach of the best: their intervals hold its value.
    """
    lines = []
    for domain, part in frame.groupby("domain", sort=False):
        texts = [
            f"{what}: {_best_choice(part, *columns)}"
            for what, *columns in (
                ("its own log-likelihood", "lds", "low", "high"),
                ("that of the final answers", "outcome", "outcome_low", "outcome_high"),
            )
            if part[columns[0]].notna().any()
        ]
        lines.append(f"<p>Predicted best on {escape(name_of(domain))}, of {'; of '.join(texts)}.</p>")
    return "\n".join(lines) + "\n"


def _best_choice(part: pd.DataFrame, value: str, low: str, high: str) -> str:
    """Return the choice with the highest value, with its interval, those in reach, and the plain choice."""
    first, *others = (
        part.dropna(subset=[value]).sort_values(value, ascending=False, kind="stable").to_dict("records")
    )
    name = escape(choice_name(next(each_row(pd.DataFrame([first])))))
    near = sum(row[high] >= first[value] for row in others)
    plain = [
        f"; whole response, own: {interval(row[value], row[low], row[high], digits=2)}"
        for row in (first, *others)
        if row["tokens"] == "whole" and row["responses"] == "own" and not row["balanced"]
    ]
    shown = interval(first[value], first[low], first[high], digits=2)
    return f"<strong>{name}</strong>, {shown} ({near} of {len(others)} others in reach{''.join(plain)})"


def single_table(single: pd.DataFrame, lds: pd.DataFrame) -> str:
    """Return the LDS of models by themselves beside that of their mean: what averaging models does.

    Parameters
    ----------
    single
        model, method, target, lds, unit.
    lds
        As :func:`lds_table` takes it.
    """
    judged = lds[(lds["selection"] == "held out") & (lds["target"] == MEAN)]
    held = judged.set_index(["unit", "method"])["lds"]
    rows = []
    for unit in UNITS:
        mine = single[(single["unit"] == unit) & (single["target"] == MEAN)]
        for method in in_order(mine["method"]):
            own = mine.loc[mine["method"] == method, "lds"]
            of_mean = held.get((unit, method), np.nan)
            shown = [own.min(), own.mean(), own.max(), of_mean]
            rows.append([f"LDS {UNITS[unit]}", METHOD_NAMES[method], *map(_number, shown)])
    heads = ["unit", "method", "lowest model", "mean of models", "highest model", "scores averaged"]
    return html_table(heads, rows, left=2, label="One model and several", stacked=True)


def _number(value: float) -> str:
    return NOT_AVAILABLE if pd.isna(value) else f"{value:.2f}".replace("-", "−")


def differences_table(frame: pd.DataFrame) -> str:
    """Return paired differences of the LDS, the mean over targets."""
    rows = [
        [
            f"LDS {UNITS[row.unit]}",
            f"{METHOD_NAMES[row.reference]} − {METHOD_NAMES[row.method]}",
            interval(row.difference, row.low, row.high, digits=2, signed=True),
            p_value(row.p_value),
        ]
        for row in each_row(frame[frame["target"] == MEAN])
    ]
    heads = ["unit", "difference of the LDS", "mean of targets", "p"]
    return html_table(heads, rows, left=2, label="Differences of the LDS")


def verdict(frame: pd.DataFrame, differences: pd.DataFrame, ceiling: pd.DataFrame) -> str:
    """Say of both units what :func:`_verdict` says."""
    return "\n\n".join(
        f"<p>LDS {words}. "
        + _verdict(
            frame[frame["unit"] == unit],
            differences[differences["unit"] == unit],
            ceiling if unit == "target" else pd.DataFrame(),
        )
        + "</p>"
        for unit, words in UNITS.items()
    )


def _verdict(frame: pd.DataFrame, differences: pd.DataFrame, ceiling: pd.DataFrame) -> str:
    """Say whether the goal was reached, which methods are told apart, and how wide the interval is."""
    held = frame[(frame["selection"] == "held out") & (frame["target"] == MEAN)].set_index("method")
    ours = [method for method in ("ekfac", "refined") if method in held.index]
    if not ours:
        return ""
    best = max(ours, key=lambda method: held.loc[method, "lds"])
    row = held.loc[best]
    shown = interval(row["lds"], row["low"], row["high"], digits=2)
    reached = "reached" if row["lds"] >= GOAL else "missed"
    within = "above" if row["low"] >= GOAL else "below" if row["high"] < GOAL else "on both sides of"
    text = (
        f"{METHOD_NAMES[best]} has an LDS of <strong>{shown}</strong> over {int(row['subsets'])} subsets "
        f"with {int(row['seeds'])} retraining{'s' if row['seeds'] > 1 else ''} each: the goal of {GOAL:g} is "
        f"{reached}, and the interval lies {within} it."
    )
    if len(ceiling):
        top = ceiling.set_index("target").loc[MEAN, "ceiling"]
        text += f" The noise ceiling is {top:.2f}."
    rivals = differences[
        (differences["target"] == MEAN)
        & (differences["reference"] == best)
        & differences["method"].isin(["gradcos", "graddot", "trak"])
    ]
    clear = [METHOD_NAMES[r.method] for r in each_row(rivals) if r.low > 0]
    unclear = [METHOD_NAMES[r.method] for r in each_row(rivals) if r.low <= 0 <= r.high]
    behind = [METHOD_NAMES[r.method] for r in each_row(rivals) if r.high < 0]
    if clear:
        text += f" It is clearly above {' and '.join(clear)}."
    if unclear:
        text += f" Its interval does not tell it apart from {' and '.join(unclear)}."
    if behind:
        text += f" It is clearly below {' and '.join(behind)}."
    if at_end := [METHOD_NAMES[method] for method in held.index if _at_an_end(method, frame)]:
        named = " and ".join(at_end)
        text += (
            f" Of {named} a damping at the end of those that were tried was chosen; one beyond may be better."
        )
    return text


def _at_an_end(method: str, frame: pd.DataFrame) -> bool:
    """Return whether a half of the subsets chose the smallest or the largest of several dampings."""
    own = frame[(frame["method"] == method) & (frame["target"] == MEAN)]
    tried = own.loc[own["selection"] == "fixed", "damping"].dropna()
    chosen = {
        float(value)
        for text in own.loc[own["selection"] == "held out", "dampings"]
        for value in str(text).split(",")
        if value.strip()
    }
    return tried.nunique() > 1 and bool(chosen & {tried.min(), tried.max()})


def brittleness_table(frame: pd.DataFrame) -> str:
    """Return how far rankings agree between fine-tuning seeds."""
    if frame.empty:
        return "One model alone was scored; nothing can be said of other seeds."
    rows = [
        [
            METHOD_NAMES[row.method],
            f"on {escape(name_of(row.target))}",
            f"{row.spearman:.2f}",
            f"{row.lowest:.2f}",
            f"{row.overlap:.2f}",
            f"{row.models}",
        ]
        for row in each_row(frame)
    ]
    heads = [
        "method",
        "target",
        "Spearman, mean of pairs",
        "lowest pair",
        "shared of the top tenth",
        "models",
    ]
    return html_table(heads, rows, left=2, label="Agreement between seeds")


def removal_table(frame: pd.DataFrame) -> str:
    """Return what removals did to each target."""
    rows = [
        [
            METHOD_NAMES[row.method],
            escape({"top": "most helpful", "bottom": "least helpful"}.get(row.end, row.end)),
            f"{row.removed}",
            f"on {escape(name_of(row.target))}",
            interval(row.change, row.low, row.high, digits=2, signed=True),
            f"{row.retrainings}",
        ]
        for row in each_row(frame)
    ]
    heads = ["method", "removed", "examples", "target", "change (nats)", "retrainings"]
    return html_table(heads, rows, left=2, label="Removal")


def groups_table(frame: pd.DataFrame) -> str:
    """Return what each change of a group did. Columns as :func:`infra_lib.validation.groups.group_table`."""
    rows = [
        [
            f"{escape(group_name(r))}, {escape(r.change)} <small>(n = {r.n})</small>",
            f"on {escape(name_of(r.target))}",
            interval(r.nats, r.low, r.high, digits=2, signed=True),
            interval(r.accuracy, r.accuracy_low, r.accuracy_high, signed=True),
            (f"{r.predicted:+,.0f}" if abs(r.predicted) >= 100 else f"{r.predicted:+.3g}").replace("-", "−"),
        ]
        for r in each_row(frame)
    ]
    headers = ["group", "target", "log-likelihood, nats", "accuracy", "forecast"]
    first = frame.iloc[0]
    note = (
        f'<p class="table-note">Each row rests on {first["seeds"]} retraining(s) and {first["responses"]} '
        "target responses; the forecast is in the scores' units.</p>\n"
    )
    table = html_table(headers, rows, left=2, label="Groups removed and doubled", stacked=True)
    return table + note


def drawn_over(seeds: int, confidence: float) -> str:
    """Say of a caption's intervals how many retrainings are behind a change, and what they draw."""
    if seeds == 1:
        return (
            f"one retraining for each, {confidence:.0%} intervals over responses alone: "
            "a single training says nothing of its noise."
        )
    return f"{seeds} retrainings each, {confidence:.0%} intervals over retrainings and responses."


ONCE = " Each change was trained once: the noise of training is in the outcomes and in none of the intervals."
"""What an agreement with single retrainings must say."""


def agreement_sentence(frame: pd.DataFrame) -> str:
    """Return how often forecasts have the sign of the outcome, in a sentence for each target.

    Columns as :func:`infra_lib.validation.groups.sign_agreement`.
    """
    lines = []
    for target, part in frame.groupby("target", sort=False):
        rows = {row.change: row for row in each_row(part)}
        both = rows["both"]
        clear = (
            f"{both.clear:.0%} of the {both.n_clear} whose interval excludes zero"
            if both.n_clear
            else "no interval excludes zero"
        )
        ranks = ", ".join(
            f"{_signed(row.spearman)} for groups {change}" for change, row in rows.items() if change != "both"
        )
        ahead = both.constant - both.agree
        constant = "as well" if ahead == 0 else "better" if ahead > 0 else "worse"
        once = "seeds" in part and part["seeds"].max() == 1
        lines.append(
            f"<p>On {escape(name_of(target))} the forecast has the sign of the outcome in "
            f"<strong>{both.agree:.0%}</strong> [{both.low:.0%}, {both.high:.0%}] of {both.n} changes "
            f"({clear}); a forecast that is the same for all groups does {constant}, {both.constant:.0%}. "
            f"Rank correlation of forecast and outcome: {ranks}.{ONCE if once else ''}</p>"
        )
    return "\n".join(lines) + "\n"


def _signed(value: float) -> str:
    return "not defined" if pd.isna(value) else f"{value:+.2f}".replace("-", "−")
