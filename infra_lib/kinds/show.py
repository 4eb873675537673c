"""Tables and figures of kinds of sentences and classes of tokens."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from infra_lib import figures, style
from infra_lib.frames import rows as each_row
from infra_lib.tables import NOT_AVAILABLE, escape, html_table, interval, named

READING_NAMES = {"loss": "loss terms", "position": "positions"}
_READING_STYLE = {"loss": ("#0072b2", "o"), "position": ("#e69f00", "D")}


def rules_table(rules: pd.DataFrame, agreement: pd.DataFrame) -> str:
    """Return the rules, with how many labelled sentences of each kind they find.

    Parameters
    ----------
    rules
        Columns kind, says.
    agreement
        Columns domain, label, kind, n (:func:`infra_lib.kinds.sentences.agreement`); may be empty.
    """
    rows = []
    for row in each_row(rules):
        labelled = agreement[agreement["label"] == row.kind]
        given = agreement[agreement["kind"] == row.kind]
        right = int(labelled.loc[labelled["kind"] == row.kind, "n"].sum())
        found, called = int(labelled["n"].sum()), int(given["n"].sum())
        rows.append(
            [
                escape(row.kind),
                escape(row.says),
                f"{right} of {found}" if found else NOT_AVAILABLE,
                f"{right} of {called}" if called else NOT_AVAILABLE,
            ]
        )
    headers = ["kind", "a sentence that", "labelled so and found", "found and labelled so"]
    return html_table(headers, rows, left=2, label="Rules for kinds of sentences", stacked=True)


def sentence_table(frame: pd.DataFrame) -> str:
    """Return mean influence by kind of sentence. Columns as :func:`infra_lib.kinds.influence.means` gives."""
    targets = sorted(frame["target"].unique(), reverse=True)
    wide = {(r.domain, r.kind, r.target): r for r in each_row(frame)}
    rows = []
    for domain, kind in dict.fromkeys((r.domain, r.kind) for r in each_row(frame)):
        cells = [wide[domain, kind, target] for target in targets]
        shown = [interval(c.mean, c.low, c.high, digits=2, signed=True) for c in cells]
        rows.append([f"{escape(kind)}, {named(domain)}", *shown, f"{cells[0].pieces:,}", f"{cells[0].n:,}"])
    headers = ["sentences", *(f"on {style.name_of(t)} (sd)" for t in targets), "sentences, n", "examples, n"]
    return html_table(headers, rows, left=1, label="Mean influence by kind of sentence", stacked=True)


def token_table(frame: pd.DataFrame) -> str:
    """Return the mean influence of token classes on the target of their own domain, in both readings."""
    own = frame[frame["target"] == frame["domain"]]
    cells = {(r["domain"], r["class"], r["reading"]): r for r in own.to_dict("records")}
    rows = []
    for domain, kind in dict.fromkeys((d, c) for d, c, _ in cells):
        found = [cells[domain, kind, reading] for reading in READING_NAMES]
        shown = [
            f"{interval(c['mean'], c['low'], c['high'], digits=3, signed=True)}<br><small>minus all others "
            f"{interval(c['difference'], c['difference_low'], c['difference_high'], digits=3, signed=True)}"
            "</small>"
            for c in found
        ]
        rows.append([f"{escape(kind)}, {named(domain)}", *shown, f"{found[0]['pieces']:,}"])
    headers = ["tokens", *(f"mean, {name} (sd)" for name in READING_NAMES.values()), "tokens, n"]
    return html_table(headers, rows, left=1, label="Mean influence by class of token", stacked=True)


def top_tokens_table(frame: pd.DataFrame, *, count: int = 6) -> str:
    """Return the tokens with the highest and lowest mean score on the target of their own domain.

    Columns: reading, target, domain, token, class, mean, count.
    """
    rows = []
    for (domain, reading), part in frame[frame["target"] == frame["domain"]].groupby(
        ["domain", "reading"], sort=False
    ):
        ordered = part.sort_values(["mean", "token"], ascending=[False, True])
        for side, chosen in (("highest", ordered.head(count)), ("lowest", ordered.tail(count)[::-1])):
            rows.append([f"{named(domain)}, {READING_NAMES[str(reading)]}, {side}", _listed(chosen)])
    headers = ["tokens", "text, mean (sd), occurrences in one model's training set"]
    return html_table(headers, rows, left=2, label="Tokens that help and hinder most", stacked=True)


def _listed(part: pd.DataFrame) -> str:
    shown = []
    for token, mean, count in part[["token", "mean", "count"]].itertuples(index=False, name=None):
        number = f"{mean:+.2f}".replace("-", "−")
        shown.append(f"<code>{escape(_visible(str(token)))}</code> {number} <small>({count:,})</small>")
    return ", ".join(shown)


def _visible(token: str) -> str:
    """Return a token with its white space and control characters made visible."""
    shown = token.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown) or "(continued)"


@style.drawn
def sentence_forest(frame: pd.DataFrame) -> Figure:
    """Draw mean influence by kind of sentence. Columns: target, domain, kind, mean, low, high."""
    domains = sorted(frame["domain"].unique(), reverse=True)
    series = [
        (
            style.name_of(domain) + " sentences",
            style.DOMAIN_COLOURS.get(str(domain), style.INK),
            style.DOMAIN_MARKERS.get(str(domain), "o"),
            frame[frame["domain"] == domain],
        )
        for domain in domains
    ]
    return figures.forest(frame, "kind", series, "mean influence of a sentence (sd)")


@style.drawn
def token_forest(frame: pd.DataFrame) -> Figure:
    """Draw mean influence by class of token on the target of its domain, a series per reading.

    Columns: target, domain, reading, class, mean, low, high.
    """
    own = frame[frame["target"] == frame["domain"]]
    series = [
        (READING_NAMES[reading], *_READING_STYLE[reading], own[own["reading"] == reading])
        for reading in READING_NAMES
    ]
    return figures.forest(own, "class", series, "mean influence of a token (sd)")
