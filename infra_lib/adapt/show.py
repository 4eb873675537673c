"""Figures, cards and tables of an attribution of anybody's data, for its own page and for the book's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from infra_lib import style, tables
from infra_lib.adapt.results import Results, extremes, sums_differ_by
from infra_lib.examples import Example
from infra_lib.frames import rows as each_row
from infra_lib.markup import attribute, escape
from infra_lib.method.shading import legend, shaded_tokens

_HUES = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Colours of domains that the book has none for."""


SPREAD = "standard deviations of the examples' scores"
"""The unit of cards."""


# --- Figures -----------------------------------------------------------------------------


@style.drawn
def group_scores(groups: pd.DataFrame, scores: pd.DataFrame | None = None) -> Figure:
    """Draw mean standardised scores of groups with intervals, one panel per target.

    Parameters
    ----------
    groups
        As :func:`infra_lib.adapt.results.by_group` gives them.
    scores
        target, group, z: single examples, drawn behind the means.
    """
    targets = sorted(groups["target"].unique(), reverse=True)
    names = list(dict.fromkeys(groups.sort_values(["domain", "group"])["group"]))
    columns = min(2, len(targets))
    lines = -(-len(targets) // columns)
    figure, panels = plt.subplots(
        lines,
        columns,
        figsize=(6.8, lines * (1.1 + 0.36 * len(names))),
        sharey=True,
        sharex=True,
        squeeze=False,
    )
    colours = domain_colours(groups["domain"])
    for axes, target in zip(panels.flat, targets, strict=False):
        for row in each_row(groups[groups["target"] == target]):
            at = names.index(row.group)
            if scores is not None:
                _dots(
                    axes, scores[(scores["target"] == target) & (scores["group"] == row.group)], at, colours
                )
            axes.plot([row.low, row.high], [at, at], color=colours[row.domain], linewidth=2.5)
            axes.plot(
                [row.mean], [at], "o", color=colours[row.domain], markeredgecolor=style.INK, markersize=7
            )
        axes.axvline(0, color=style.INK, linewidth=1)
        axes.set_title(f"on {style.name_of(target)}")
    for axes in panels.flat[len(targets) :]:
        axes.set_visible(False)
    panels[0][0].set_yticks(range(len(names)), [_short(name) for name in names])
    panels[0][0].set_ylim(len(names) - 0.5, -0.5)
    for axes in panels[-1]:
        axes.set_xlabel("influence (sd)")
    for axes in panels.flat:
        axes.grid(axis="x")
        axes.grid(False, axis="y")
    return figure


def _dots(axes: Any, part: pd.DataFrame, at: int, colours: dict[str, str]) -> None:
    # Spread by rank and not at random, so that a figure is the same every time.
    spread = 0.28 * (((np.arange(len(part)) * 0.618) % 1) * 2 - 1)
    for domain, hue in colours.items():
        mine = (part["domain"] == domain).to_numpy()
        axes.plot(part["z"][mine], at + spread[mine], "o", color=hue, markersize=3.2, alpha=0.45, mew=0)


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def domain_colours(domains: Sequence[str] | pd.Series) -> dict[str, str]:
    """Return a colour for each domain, the book's own for mathematics and code."""
    hues = cycle(_HUES)
    return {
        name: style.DOMAIN_COLOURS.get(name) or next(hues)
        for name in sorted(dict.fromkeys(map(str, domains)))
    }


def group_words(groups: pd.DataFrame) -> str:
    """Return the means of groups in words, for who cannot see the figure; at most twelve of them."""
    said = [f"{r.group} on {style.name_of(r.target)} {r.mean:+.2f}" for r in each_row(groups.head(12))]
    return "; ".join(said) + (f"; and {len(groups) - 12} more" if len(groups) > 12 else "")


# --- Cards -------------------------------------------------------------------------------


def example_cards(results: Results, target: str, shown: int) -> str:
    """Return the examples at both ends of a target's ranking as cards, tokens shaded by their influence.

    All cards of a target share one scale, in standard deviations of the examples' scores: those themselves
    are as large as the curvature is small. After each sentence stands what its tokens add up to.
    """
    ends = extremes(results, target, shown)
    unit = results.deviations[target] or 1.0
    mine = results.tokens[(results.tokens["target"] == target) & (results.tokens["position"] >= 0)]
    mine = mine[mine["id"].isin(ends["id"])]
    mine = mine.assign(score=mine["score"] / unit)
    scaled = replace(results, sentences=results.sentences.assign(score=results.sentences["score"] / unit))
    end = float(mine["score"].abs().max()) or 1.0
    cards = [_card(scaled, row, mine[mine["id"] == row.id], end) for row in each_row(ends)]
    return (
        f'<div class="shaded mathjax_ignore">\n<div class="example-cards">\n{chr(10).join(cards)}\n</div>\n'
        f"{legend(end, target, 'one scale for these examples', units=SPREAD)}\n</div>\n"
    )


def _card(results: Results, row: Any, tokens: pd.DataFrame, end: float) -> str:
    example = results.train[row.id]
    about = [tables.named(row.domain)]
    about += [f"difficulty {int(row.difficulty)}"] if not pd.isna(row.difficulty) else []
    about += [escape(row.category)] if isinstance(row.category, str) else []
    ranked = results.examples[results.examples["target"] == row.target]
    score = f"{row.z:+.1f}".replace("-", "−")
    title = (
        f"{row.side} {tables.named(row.target)}: rank {int(row.rank)} of {len(ranked)}, {score} sd · "
        f"{', '.join(about)} · {escape(row.id)}"
    )
    response = _sentences(results, row, example, tokens, end)
    return (
        f'<section class="example-card {attribute(row.side)}" aria-label="{attribute(row.id)}">'
        f'<div class="example-title">{title}</div>'
        f'<div class="example-prompt">{escape(example.prompt.strip())}</div>'
        f'<div class="example-response shaded-text">{response}</div>'
        "</section>"
    )


def _sentences(results: Results, row: Any, example: Example, tokens: pd.DataFrame, end: float) -> str:
    """Return a response sentence by sentence: shaded tokens, then the sum."""
    chosen = (results.sentences["id"] == row.id) & (results.sentences["target"] == row.target)
    spans = results.sentences[chosen & (results.sentences["index"] >= 0)].sort_values("index")
    tokens = tokens.sort_values("position")
    owner = np.searchsorted(spans["start"].to_numpy(), tokens["start"].to_numpy(), side="right") - 1
    parts = []
    for number, span in enumerate(each_row(spans)):
        own = tokens[owner == number]
        if own.empty:
            continue
        texts = [example.response[a:b] for a, b in zip(own["start"], own["end"], strict=True)]
        total = f"{span.score:+.2f} sd".replace("-", "−")
        parts.append(
            f"<span>{shaded_tokens(texts, own['score'].to_numpy(), end)}</span>"
            f'<small class="sentence-score" title="sum over this sentence"> {total} </small>'
        )
    return "".join(parts)


# --- Tables ------------------------------------------------------------------------------


def read_table(results: Results) -> str:
    """Return what was read: examples and tokens of each file and domain, what was cut and left out."""
    rows = [
        [
            escape(entry["file"]),
            tables.named(entry["domain"]),
            f"{entry['examples']:,}",
            f"{entry['tokens']:,}",
            f"{entry['response_tokens']:,}",
            f"{entry['cut_tokens']:,} of {entry['cut_examples']:,} examples" if entry["cut_tokens"] else "0",
        ]
        for entry in results.record["read"]
    ]
    headers = ["file", "domain", "examples", "tokens", "of responses", "cut at the end"]
    left = results.record["skipped"]
    note = f'<p class="table-note">{left} lines could not be used and were left out.</p>\n'
    return tables.html_table(headers, rows, left=2, label="What was read") + note


def agreement_table(frame: pd.DataFrame) -> str:
    """Return how far simpler scores rank alike. Columns as :func:`infra_lib.adapt.results.agreement`."""
    rows = [
        [
            f"on {tables.named(r.target)}",
            escape(r.score),
            tables.NOT_AVAILABLE if pd.isna(r.spearman) else f"{r.spearman:+.2f}".replace("-", "−"),
            str(r.n),
        ]
        for r in each_row(frame)
    ]
    return tables.html_table(["influence", "beside", "Spearman", "n"], rows, left=2, label="Agreement")


def checks_table(results: Results) -> str:
    """Return what the attribution checked about itself."""
    checks = results.provenance["checks"]
    rows = [
        [f"{tables.named(target)}: scores alone against in a batch", f"{value:.1e} of the largest"]
        for target, value in checks.get("single_against_batch", {}).items()
    ]
    rows += [
        [f"sums over {name} against example scores", f"{value:.1e} of the largest"]
        for name, value in sums_differ_by(results).items()
    ]
    rows += [
        [f"factors: {escape(name.replace('_', ' '))}, largest over layers", f"{value:.1e}"]
        for name, value in checks.get("factors", {}).items()
    ]
    rows += [["warning", escape(text)] for text in checks.get("warnings", [])]
    return tables.html_table(["check", "difference"], rows, left=1, label="Checks")


def provenance_table(results: Results) -> str:
    """Return where the numbers come from: model, layers, method, machine, time, commit."""
    record, made = results.provenance, results.provenance["environment"]
    options = record["options"]
    rows = [
        ["model", f"{escape(results.record['model'])} ({escape(record['architecture'])})"],
        [
            "method",
            f"{escape(options['method'])}, damping {options['damping']:g}, "
            f"{escape(options['reading'])} reading",
        ],
        ["prompts", escape(record["prompts"]["form"]) if "prompts" in record else "not recorded"],
        ["layers", f"{len(record['layers'])}, such as {escape(record['layers'][0])}"],
        ["arithmetic", escape(options["dtype"])],
        ["device", f"{escape(made['device'])}; {made['threads']} threads used"],
        ["time of the attribution", f"{record['seconds']:.0f} s"],
        [
            "commit of the library",
            f"<code>{escape(made['commit'][:12])}</code>"
            + " with changes" * made["commit"].endswith("+changes"),
        ],
        *(
            ["examples, SHA-256", f"{escape(name)}: <code>{digest[:16]}</code>"]
            for name, digest in record["inputs"].items()
        ),
    ]
    return tables.html_table(["what", "value"], rows, left=2, label="Provenance")
