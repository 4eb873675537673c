"""Every table and text fragment of the book: a data frame in, markup out.

Fragments are HTML inside MyST, so that each cell can be escaped once and for all: text
from models and data sets is shown and never interpreted, be it HTML, Markdown, a MyST
directive or TeX.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from infra_lib.examples import Sentence
from infra_lib.frames import rows as each_row
from infra_lib.markup import attribute, escape
from infra_lib.steps import label_sentences
from infra_lib.style import in_order, name_of

BADGES = {
    "computed": "computed in this build",
    "recorded": "recorded run",
    "reported": "reported by the paper",
}
NOT_AVAILABLE = "not available"


def named(key: object) -> str:
    """Return how a domain or arm is written in a cell, as HTML."""
    return escape(name_of(key))


def of_runs(number: int) -> str:
    """Return a number of runs in words: ``1 run``, ``6 runs``."""
    return f"{number} run{'' if number == 1 else 's'}"


def tip(shown: str, note: str, css: str = "") -> str:
    """Return finished HTML with a note that pointer and keyboard bring up, and that is read aloud.

    The note stands in the text: without a style sheet it follows in brackets.
    """
    if not note:
        return f'<span class="{css}">{shown}</span>' if css else shown
    classes = f"{css} tip".strip()
    return (
        f'<span class="{classes}" tabindex="0">{shown}'
        f'<span class="tip-text" role="note"> ({escape(note)})</span></span>'
    )


def level_name(difficulty: object) -> str:
    """Return how a difficulty is written in a cell: ``none`` where it is missing, or 0 in counts."""
    return "none" if pd.isna(difficulty) or difficulty == 0 else str(difficulty)


def badge(kind: str, title: str = "") -> str:
    """Return the badge that says where a number comes from, its provenance on hover and on focus."""
    return tip(BADGES[kind], title, f"badge-{kind}")


def html_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: int = 1,
    label: str = "",
    stacked: bool = False,
) -> str:
    """Return a table of ready-made cells; the first ``left`` columns are flush left, the rest right.

    On a narrow screen the table scrolls inside its frame, which takes the keyboard's focus; a ``stacked``
    one shows each row as a block there, every cell under its column's name, for tables of few long cells.
    """

    def side(i: int) -> str:
        return "l" if i < left else "r"

    rows = list(rows)
    head = "".join(f'<th class="{side(i)}" scope="col">{escape(h)}</th>' for i, h in enumerate(headers))
    body = "\n".join(
        "<tr>" + "".join(f'<td class="{side(i)}">{cell}</td>' for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    name = f' role="region" aria-label="{attribute(label)}"' if label else ""
    if stacked:
        body = "\n".join(
            '<tr role="row">'
            + "".join(
                f'<td role="cell" class="{side(i)}" data-label="{attribute(headers[i])}">'
                f'<div class="cell">{cell}</div></td>'
                for i, cell in enumerate(row)
            )
            + "</tr>"
            for row in rows
        )
        return (
            f'<div class="infra-table stacked mathjax_ignore" tabindex="0"{name}>\n<table role="table">\n'
            f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
            f'<tbody role="rowgroup">\n{body}\n</tbody>\n</table>\n</div>\n'
        )
    return (
        f'<div class="infra-table mathjax_ignore" tabindex="0"{name}>\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n"
    )


def folded(heading: str, table: str) -> str:
    """Return a long table that opens when its heading is asked for; what is no table stays as it is."""
    if "<table" not in table:
        return table
    return f'<details class="infra-more"><summary>{heading}</summary>\n\n{table}\n\n</details>'


def interval(mean: float, low: float, high: float, *, digits: int = 3, signed: bool = False) -> str:
    """Return ``mean [low, high]`` as text."""
    sign = "+" if signed else ""
    shown = [f"{value:{sign}.{digits}f}".replace("-", "−") for value in (mean, low, high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def p_value(value: float) -> str:
    """Return a p-value as text."""
    return "&lt; 0.001" if value < 0.001 else f"{value:.3f}"


# --- Data and base -----------------------------------------------------------------------


def split_counts(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return examples per split, domain and difficulty."""
    return pd.concat(
        [f.groupby(["domain", "difficulty"], dropna=False).size().rename(name) for name, f in frames.items()],
        axis=1,
    ).reset_index()


def split_counts_markdown(frame: pd.DataFrame) -> str:
    """Return the table of :func:`split_counts`, one row per domain."""
    names = [column for column in frame.columns if column not in ("domain", "difficulty")]
    totals = frame.groupby("domain", sort=False)[names].sum()
    rows = [[named(domain), *(f"{int(v):,}" for v in row)] for domain, row in totals.iterrows()]
    return html_table(["domain", *(n.replace("_", " ") for n in names)], rows, label="Examples per split")


def example_gallery(frame: pd.DataFrame) -> str:
    """Return one example of each category, its sentences marked by kind.

    Columns: domain, category, difficulty, prompt, response, sentences (JSON). Where the data mark no
    sentences, the rules of :func:`infra_lib.steps.label_sentences` do.
    """
    picked = pd.concat(
        [
            frame[frame["sentences"].str.contains('"(?:mend|check)"') & (frame["difficulty"] == 2)],
            frame[frame["difficulty"] == 2],
            frame,
        ]
    ).drop_duplicates(["domain", "category"])
    cards = []
    for row in picked.sort_values(["domain", "category"]).to_dict("records"):
        parts = []
        given = [Sentence(*span) for span in json.loads(row["sentences"])]
        for sentence in given or label_sentences(row["response"]):
            kind = sentence.kind
            text = escape(row["response"][sentence.start : sentence.end].rstrip("\n"))
            tag = "code" if kind == "program" else "span"
            parts.append(f'<{tag} class="kind-{attribute(kind)}" title="{attribute(kind)}">{text}</{tag}>')
        given_category = isinstance(row["category"], str) and row["category"]  # NaN where others have one
        category = f", {escape(row['category'])}" if given_category else ""
        title = f"{named(row['domain'])}{category}, difficulty {level_name(row['difficulty'])}"
        cards.append(
            f'<div class="example-card"><div class="example-title">{title}</div>'
            f'<div class="example-prompt">{escape(row["prompt"].strip())}</div>'
            f'<div class="example-response">{"<br>".join(parts)}</div></div>'
        )
    return '<div class="example-cards mathjax_ignore">\n' + "\n".join(cards) + "\n</div>\n"


def base_facts(records: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    """Return what is recorded of each base model, one row per seed."""
    return pd.DataFrame(
        [
            {
                "base_seed": seed,
                "parameters": record["parameters"],
                # A model from elsewhere has no record of its training.
                "tokens": record.get("tokens", float("nan")),
                "final_loss": record["curve"][-1]["loss"] if "curve" in record else float("nan"),
                "seconds": record.get("seconds", float("nan")),
                "weights_sha256": record["weights_sha256"],
            }
            for seed, record in records.items()
        ]
    )


def base_facts_markdown(frame: pd.DataFrame) -> str:
    """Return the table of :func:`base_facts`."""
    rows = [
        [
            str(r.base_seed),
            f"{r.parameters / 1e6:.2f} M",
            _known(r.tokens / 1e6, "{:.1f} M"),
            _known(r.final_loss, "{:.3f}"),
            _known(r.seconds, "{:.0f} s"),
            f"<code>{r.weights_sha256[:12]}</code>",
        ]
        for r in each_row(frame)
    ]
    headers = ["base seed", "parameters", "tokens", "final loss", "training time", "weights (sha256)"]
    return html_table(headers, rows, label="Base models", stacked=True)


def _known(value: float, form: str) -> str:
    return NOT_AVAILABLE if pd.isna(value) else form.format(value)


# --- Accuracy and arms -------------------------------------------------------------------


def accuracy_by_difficulty(frame: pd.DataFrame) -> str:
    """Return accuracy by difficulty. Columns: domain, difficulty, mean, low, high, runs, n."""
    rows = [
        [
            named(r.domain),
            level_name(r.difficulty),
            interval(r.mean, r.low, r.high),
            str(r.runs),
            str(r.n),
        ]
        for r in each_row(frame)
    ]
    headers = ["domain", "difficulty", "accuracy", "runs", "problems"]
    return html_table(headers, rows, label="Accuracy by difficulty")


def arms_table(frame: pd.DataFrame) -> str:
    """Return accuracy of arms. Columns: arm, domain, mean, low, high, runs, n, tokens_per_epoch."""
    wide = {(r.arm, r.domain): r for r in each_row(frame)}
    domains = sorted(frame["domain"].unique(), reverse=True)
    rows = []
    for arm in in_order(frame["arm"]):
        cells = [wide[arm, d] for d in domains]
        rows.append(
            [
                named(arm),
                "–" if pd.isna(tokens := cells[0].tokens_per_epoch) else f"{tokens / 1000:.0f} k",
                *(interval(c.mean, c.low, c.high) for c in cells),
            ]
        )
    headers = ["arm", "response tokens an epoch", *(f"{name_of(d)} accuracy" for d in domains)]
    return html_table(headers, rows, label="Accuracy of each arm", stacked=True) + _sizes(frame)


def differences_table(frame: pd.DataFrame) -> str:
    """Return paired differences. Columns as :func:`infra_lib.attributes.compare_arms` gives them."""
    if frame.empty:
        return "This study has one arm: there is nothing to compare.\n"
    rows = [
        [
            f"{named(r.arm_a)} − {named(r.arm_b)}",
            named(r.domain),
            interval(r.difference, r.low, r.high, signed=True),
            p_value(r.p_value),
            p_value(r.p_problems),
            p_value(r.p_runs),
        ]
        for r in each_row(frame)
    ]
    headers = ["arms", "domain", "difference", "p", "p, problems", "p, runs"]
    table = html_table(headers, rows, left=2, label="Paired differences between arms", stacked=True)
    return table + _sizes(frame)


def arm_levels_table(frame: pd.DataFrame) -> str:
    """Return the accuracy of every arm by domain and difficulty.

    Columns arm, domain, difficulty, mean, low, high; problems without a difficulty are left out.
    """
    levels, spread = _spread(
        frame.dropna(subset=["difficulty"]), ["arm", "domain"], "difficulty", "mean", digits=2
    )
    rows = [[named(arm), named(domain), *cells] for (arm, domain), cells in spread]
    headers = ["arm", "domain", *(f"level {level:g}" for level in levels)]
    return html_table(headers, rows, left=2, label="Accuracy by difficulty", stacked=True)


def base_differences_table(frame: pd.DataFrame) -> str:
    """Return paired differences on each base by itself, and how often the bases differ in sign.

    Columns as :func:`infra_lib.attributes.compare_arms_by_base` gives them.
    """
    if frame.empty:
        return "This study has one arm: there is nothing to compare.\n"
    of = ["arm_a", "arm_b", "domain"]
    bases, spread = _spread(frame, of, "base_seed", "difference", signed=True)
    rows = [[f"{named(a)} − {named(b)}", named(domain), *cells] for (a, b, domain), cells in spread]
    headers = ["arms", "domain", *(f"base {base}" for base in bases)]
    table = html_table(headers, rows, left=2, label="Paired differences on each base", stacked=True)
    against = sum(own["low"].gt(0).any() and own["high"].lt(0).any() for _, own in frame.groupby(of))
    words = (
        f"In {against} of {len(rows)} differences one base lies clearly above zero and another clearly below."
        if len(bases) > 1
        else "There is one base."
    )
    return table + f'<p class="table-note">{words} Intervals draw one base\'s seeds, and the problems.</p>\n'


def _spread(
    frame: pd.DataFrame, rows: list[str], column: str, value: str, **how: Any
) -> tuple[list[Any], list[tuple[Any, list[str]]]]:
    """Return the values of a column, and for each combination of ``rows`` an interval under each of them."""
    heads = sorted(frame[column].unique())
    found = []
    for names, part in frame.groupby(rows, sort=False):
        own = {r[column]: interval(r[value], r["low"], r["high"], **how) for r in part.to_dict("records")}
        found.append((names, [own.get(head, NOT_AVAILABLE) for head in heads]))
    return heads, found


def _sizes(frame: pd.DataFrame) -> str:
    """Return the line under a table that says how many runs and problems are behind each row."""
    runs, problems = (sorted(frame[column].unique()) for column in ("runs", "n"))
    shown = [" or ".join(str(int(value)) for value in values) for values in (runs, problems)]
    word = "run" if shown[0] == "1" else "runs"
    return f'<p class="table-note">Each row rests on {shown[0]} {word} and {shown[1]} problems.</p>\n'


# --- Influence ---------------------------------------------------------------------------


def target_counts_markdown(frame: pd.DataFrame) -> str:
    """Return how many correct responses a target holds. Columns: base_seed, domain, difficulty, n."""
    wide = frame.pivot_table(
        index=["base_seed", "domain"], columns="difficulty", values="n", aggfunc="sum", fill_value=0
    )
    rows = [
        [str(seed), named(domain), *(str(int(v)) for v in row), str(int(row.sum()))]
        for (seed, domain), row in wide.iterrows()
    ]
    levels = [f"level {level}" if level else "no level" for level in wide.columns]
    headers = ["base", "target", *levels, "all"]
    return html_table(headers, rows, left=2, label="Correct responses behind each target")


def group_influence_table(frame: pd.DataFrame, by: str = "difficulty") -> str:
    """Return mean influence of groups. Columns: target, domain, ``by``, mean, low, high, n."""
    targets = sorted(frame["target"].unique(), reverse=True)
    rows = []
    for (domain, group), part in frame.groupby(["domain", by], sort=False, dropna=False):
        cells = {row.target: row for row in each_row(part)}
        shown = [
            interval(c.mean, c.low, c.high, digits=2, signed=True) for c in map(cells.__getitem__, targets)
        ]
        name = level_name(group) if by == "difficulty" else "none" if pd.isna(group) else escape(str(group))
        rows.append([named(domain), name, *shown, str(cells[targets[0]].n)])
    headers = ["training examples", by, *(f"on {name_of(t)} (sd)" for t in targets), "n"]
    return html_table(headers, rows, left=2, label=f"Mean influence of examples by {by}", stacked=True)


def transfer_table(frame: pd.DataFrame) -> str:
    """Return mean influence by domain. Columns: target, domain, mean, low, high, n."""
    rows = [
        [
            f"{named(r.domain)} examples",
            f"on {named(r.target)}",
            interval(r.mean, r.low, r.high, digits=2, signed=True),
            str(r.n),
        ]
        for r in each_row(frame)
    ]
    headers = ["training examples", "target", "mean influence (sd)", "n"]
    return html_table(headers, rows, left=2, label="Mean influence across domains", stacked=True)


def hard_minus_easy_table(frame: pd.DataFrame) -> str:
    """Return hard-minus-easy contrasts. Columns: target, domain, difference, low, high, n_hard, n_easy."""
    if frame.empty:
        return "No domain has both hard and easy training examples, so there is nothing to compare.\n"
    rows = [
        [
            f"{named(r.domain)} examples",
            f"on {named(r.target)}",
            interval(r.difference, r.low, r.high, digits=2, signed=True),
            f"{r.n_hard} / {r.n_easy}",
        ]
        for r in each_row(frame)
    ]
    headers = ["training examples", "target", "hard − easy (sd)", "n hard / easy"]
    return html_table(headers, rows, left=2, label="Influence of hard minus easy examples", stacked=True)


def influential_examples(frame: pd.DataFrame) -> str:
    """Return the most helpful and most harmful examples as cards.

    Columns: target, side (helps, hinders), id, domain, difficulty, z, prompt, response.
    """
    cards = []
    for row in frame.to_dict("records"):
        title = (
            f"{'helps' if row['side'] == 'helps' else 'hinders'} {named(row['target'])} "
            f"({row['z']:+.1f} sd) · {named(row['domain'])}, difficulty {level_name(row['difficulty'])}"
        )
        cards.append(
            f'<div class="example-card {attribute(row["side"])}"><div class="example-title">{title}</div>'
            f'<div class="example-prompt">{escape(str(row["prompt"]).strip())}</div>'
            f'<div class="example-response">{escape(row["response"])}</div></div>'
        )
    return '<div class="example-cards mathjax_ignore">\n' + "\n".join(cards) + "\n</div>\n"


# --- Claims ------------------------------------------------------------------------------

VERDICTS = {
    "reproduced": "the interval lies on the claim's side",
    "not reproduced": "the interval lies on the other side",
    "undecided": "the interval holds zero",
    "not measured": "this build has no experiment for it yet",
}


def verdict_tag(verdict: str) -> str:
    """Return a verdict as a coloured tag that explains itself."""
    return tip(verdict, VERDICTS[verdict], f"verdict-{verdict.replace(' ', '-')}")


def direction_word(direction: str) -> str:
    """Return how a cell writes a reported direction."""
    return "↑ above zero" if direction == "up" else "↓ below zero"


def claims_table(
    frame: pd.DataFrame,
    origins: Mapping[str, str] | None = None,
    *,
    measured_in: str = "measured in this build",
) -> str:
    """Return reported beside measured. Columns as :func:`infra_lib.claims.measure_claims` gives them.

    Parameters
    ----------
    origins
        Where the measured numbers come from, by their unit; shown on hover and on focus.
    measured_in
        Head of the column of measured numbers.
    """
    rows = []
    for r in each_row(frame):
        if r.verdict == "not measured":
            measured = NOT_AVAILABLE
        else:
            value = interval(r.mean, r.low, r.high, digits=r.digits, signed=True) + f" {r.unit}"
            size = f"<br><small>{of_runs(r.runs)}, n = {r.n}</small>"
            measured = tip(value, (origins or {}).get(r.unit, "")) + size
        number = escape(r.reported) if r.reported else f"number {NOT_AVAILABLE}"
        reported = f"{tip(number, r.mark_says)}<br><small>{direction_word(r.direction)}</small>"
        rows.append([str(r.test), escape(r.says), reported, measured, verdict_tag(r.verdict)])
    headers = ["test", "effect", "reported by the paper", measured_in, "verdict"]
    return html_table(headers, rows, left=5, label="Reported beside measured", stacked=True)


# --- Provenance --------------------------------------------------------------------------


def provenance_table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Return where each stage's results come from, one row per stage; one device of all stands below."""
    devices = {record["environment"]["device"] for record in records.values()}
    rows = []
    for name, record in records.items():
        seeds = ", ".join(
            f"{key} {value}" for key, value in record["seeds"].items() if key in record["parameters"]
        )
        rows.append(
            [
                escape(name),
                f"<code>{escape(record['environment']['commit'][:12])}</code>"
                + (" + changes" if record["environment"]["commit"].endswith("+changes") else ""),
                escape(seeds) or "–",
                *([escape(record["environment"]["device"])] if len(devices) > 1 else []),
                escape(record["started"][:16].replace("T", " ")),
                f"{record['seconds']:.0f} s",
                _peak(record),
            ]
        )
    several = ["device"] if len(devices) > 1 else []
    headers = ["notebook", "commit", "seeds", *several, "started (UTC)", "time", "peak memory"]
    table = html_table(
        headers, rows, left=4 + len(several), label="Provenance of each notebook", stacked=True
    )
    return table if several else f"{table}\n<p>All on {escape(devices.pop())}.</p>"


def _peak(record: Mapping[str, Any]) -> str:
    """Return the largest process's peak memory, and the GPU's where one was used."""
    peaks = record.get("peak_bytes")
    if not peaks:
        return NOT_AVAILABLE
    gpu = f", GPU {peaks['device'] / 2**30:.1f} GiB" if peaks["device"] else ""
    return f"{max(peaks['process'], peaks['worker']) / 2**30:.1f} GiB{gpu}"


def versions_table(versions: Mapping[str, str]) -> str:
    """Return the versions of what the results were computed with."""
    return html_table(
        ["package", "version"],
        [[escape(k), escape(v)] for k, v in versions.items()],
        left=2,
        label="Versions",
    )


def pass_at_k(table: pd.DataFrame, *, by: Sequence[str] = (), label: str = "pass@k") -> str:
    """Return the table of :func:`infra_lib.pass_at_k.pass_at_k_table`: a row per group, a column per k.

    Parameters
    ----------
    by
        The grouping columns, in the order that they have in the table.
    """
    ks = sorted(table["k"].unique())
    groups = table.groupby(list(by), sort=False) if by else [((), table)]
    rows = []
    for group, part in groups:
        cells = part.set_index("k")
        shown = [
            interval(cells.at[k, "mean"], cells.at[k, "low"], cells.at[k, "high"])
            if k in cells.index
            else NOT_AVAILABLE
            for k in ks
        ]
        counts = [f"{int(part['n'].iloc[0])}", f"{int(part['answers'].min())}"]
        rows.append([*(escape(name_of(str(value))) for value in group), *counts, *shown])
    headers = [*(str(name).capitalize() for name in by), "problems", "answers each"]
    return html_table([*headers, *(f"pass@{k}" for k in ks)], rows, left=len(by), label=label)


def exams(table: pd.DataFrame) -> str:
    """Return pass@k by exam, or where it would say nothing new, that.

    Columns: exam, domain and (of several training sets) arm, then those of
    :func:`infra_lib.pass_at_k.pass_at_k_table`.
    """
    asked = table[["exam", "domain"]].drop_duplicates()
    if not asked["domain"].duplicated().any() and set(table["k"]) == {1}:
        names = ", ".join(f"{named(r.domain)}: {escape(r.exam.replace('_', ' '))}" for r in each_row(asked))
        if asked["exam"].str.contains(",").any():
            return f"Problems of these sources carry no name of theirs and are shown together ({names}).\n"
        return f"Each domain has one exam ({names}) and each problem one answer, so nothing is pooled.\n"
    by = [name for name in ("arm", "exam", "domain") if name in table.columns]
    return pass_at_k(table, by=by, label="Exam by exam")


def exams_by_window(table: pd.DataFrame) -> str:
    """Return accuracy by exam, difficulty and half-year.

    Columns as :func:`infra_lib.exam_dates.accuracy_by_window` gives them; no rows, no table.
    """
    if table.empty:
        return "No problem of these exams has a date, so there is nothing to show by half-year.\n"
    rows = [
        [
            escape(r.exam),
            level_name(r.difficulty),
            escape(r.window),
            interval(r.mean, r.low, r.high),
            str(r.runs),
            str(r.n),
        ]
        for r in each_row(table)
    ]
    headers = ["exam", "difficulty", "published", "accuracy", "runs", "problems"]
    return html_table(headers, rows, left=3, label="Accuracy by date of the problems")


def steps_table(frame: pd.DataFrame) -> str:
    """Return steps of traces by source. Columns as :func:`infra_lib.steps.count_steps` gives them."""
    if frame.empty:
        return "No training solution is a trace with tags around its sections: no steps are counted.\n"
    rows = [
        [
            escape(r.source.replace("_", " ")),
            named(r.domain),
            f"{r.traces:,} of {r.examples:,}",
            f"{r.steps:g} ({r.steps_low:g} to {r.steps_high:g})",
            f"{r.sentences:g}",
            f"{r.check:.2f}",
            f"{r.alternative:.2f}",
        ]
        for r in each_row(frame)
    ]
    headers = [
        "source",
        "domain",
        "traces",
        "steps, median (quartiles)",
        "sentences, median",
        "checks, mean",
        "alternatives, mean",
    ]
    return html_table(headers, rows, left=2, label="Steps per trace", stacked=True)


def cut_table(frame: pd.DataFrame, max_tokens: int | None) -> str:
    """Return what was cut at ``max_tokens``. Columns as :func:`infra_lib.lengths.cut_report` gives them."""
    if not frame["lost"].any():
        whole = frame.iloc[-1]
        limit = f"max_tokens is {max_tokens:,}" if max_tokens else "there is no max_tokens"
        return f"{whole['examples']:,} responses, {whole['tokens']:,} tokens; nothing is cut ({limit}).\n"
    rows = [
        [
            named(r.domain),
            escape(r.difficulty),
            f"{r.examples:,}",
            f"{r.tokens:,}",
            f"{r.cut:,} ({r.cut_share:.1%})",
            f"{r.lost:,} ({r.lost_share:.1%})",
        ]
        for r in each_row(frame)
    ]
    headers = ["domain", "difficulty", "examples", "response tokens", "examples cut", "tokens lost"]
    return html_table(headers, rows, left=2, label="What is cut at the context's end", stacked=True)
