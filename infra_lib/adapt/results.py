"""What an attribution of anybody's data found, as tables: by group, at both ends, beside simpler scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from infra_lib.checksums import damage
from infra_lib.errors import DataError
from infra_lib.examples import Example, scan_jsonl
from infra_lib.files import read_sealed
from infra_lib.reading import load_json, load_table
from infra_lib.statistics import mean_interval
from infra_lib.style import name_of

RECORD = "adapt.json"
"""What was read, what the scores depend on, and the digests of their tables."""

TABLES = ("examples.parquet", "sentences.parquet", "tokens.parquet", "gradcos.parquet", "provenance.json")

MOST_GROUPS = 24
"""Groups that one figure shows; of more, the largest."""


@dataclass(frozen=True)
class Results:
    """Scores of one run.

    Attributes
    ----------
    examples, sentences, tokens
        As ``infra attribute`` writes them (:mod:`infra_lib.attribute.write`).
    gradcos
        Like ``examples``, the score being the cosine of gradients.
    provenance, record
        Of the attribution, and of what is around it.
    train
        Training examples by id.
    """

    examples: pd.DataFrame
    sentences: pd.DataFrame
    tokens: pd.DataFrame
    gradcos: pd.DataFrame
    provenance: dict[str, Any]
    record: dict[str, Any]
    train: dict[str, Example]

    @property
    def targets(self) -> list[str]:
        """Names of the targets."""
        return sorted(self.examples["target"].unique(), reverse=True)

    @property
    def deviations(self) -> pd.Series:
        """Standard deviation of the examples' scores by target; 1 where there is but one example."""
        return self.examples.groupby("target")["score"].std().fillna(1.0)

    def described(self) -> pd.DataFrame:
        """Return example scores with domain, difficulty, category, and ``z`` (score over its deviation)."""
        frame = self.examples.copy()
        for name in ("domain", "difficulty", "category"):
            frame[name] = [getattr(self.train[key], name) for key in frame["id"]]
        return frame.assign(z=frame["score"] / frame["target"].map(self.deviations))


def load_results(folder: Path, train: Path, target: Path) -> Results:
    """Return the results in a folder of scores, with the examples that were scored.

    Raises
    ------
    DataError
        For a file that is missing, torn, or of other examples.
    """
    try:
        record = read_sealed(folder / RECORD)
    except OSError:
        raise DataError(folder / RECORD, "is missing or cannot be read") from None
    if damaged := damage(folder, record.get("files", {})):
        raise DataError(folder / damaged[0], "is missing or torn, or was changed since it was written")
    examples = {example.id: example for example in scan_jsonl(train)[0]}
    tables = {
        name: load_table(folder / f"{name}.parquet")
        for name in ("examples", "sentences", "tokens", "gradcos")
    }
    if lost := sorted(set(tables["examples"]["id"]) - set(examples)):
        raise DataError(train, f"has no example {lost[0]!r}, which {folder} has scores of")
    return Results(
        **tables,
        provenance=load_json(folder / "provenance.json"),
        record=record,
        train=examples,
    )


def grouped(results: Results, by: Sequence[str]) -> pd.DataFrame:
    """Return :meth:`Results.described` with each example's group in words; of many groups, the largest."""
    frame = results.described().dropna(subset=list(by))
    frame = frame.assign(group=[_group(row) for row in frame[list(by)].to_dict("records")])
    sizes = frame.groupby("group")["id"].nunique().sort_values(ascending=False, kind="stable")
    return frame[frame["group"].isin(sizes.index[:MOST_GROUPS])]


def by_group(results: Results, by: Sequence[str]) -> pd.DataFrame:
    """Return the mean standardised score of each group on each target, with a bootstrap interval.

    Parameters
    ----------
    by
        Some of domain, difficulty, category; examples without one of them are left out.

    Returns
    -------
    pandas.DataFrame
        target, group (in words), mean, low, high, n; the largest groups where there are many.
    """
    frame = grouped(results, by)
    rows = []
    for (target, group), part in frame.groupby(["target", "group"], sort=True):
        found = mean_interval(part["z"].to_numpy())
        rows.append(
            {
                "target": target,
                "group": group,
                "domain": part["domain"].iloc[0],
                "mean": found.mean,
                "low": found.low,
                "high": found.high,
                "n": len(part),
            }
        )
    return pd.DataFrame(rows, columns=["target", "group", "domain", "mean", "low", "high", "n"])


def _group(values: dict[str, Any]) -> str:
    words: dict[str, Callable[[Any], str]] = {"domain": name_of, "difficulty": _level, "category": str}
    return ", ".join(words[name](value) for name, value in values.items())


def _level(difficulty: Any) -> str:
    return f"difficulty {int(difficulty)}"


def finer_groups(results: Results) -> list[tuple[str, ...]]:
    """Return the finer divisions that the examples allow: by difficulty, by category."""
    frame = results.described()
    found: list[tuple[str, ...]] = []
    for name in ("difficulty", "category"):
        pairs = frame.dropna(subset=[name])[["domain", name]].drop_duplicates()
        if len(pairs) > frame["domain"].nunique():
            found.append(("domain", name))
    return found


def extremes(results: Results, target: str, shown: int) -> pd.DataFrame:
    """Return the examples that help a target most, then those that hinder it most (or help it least).

    Returns
    -------
    pandas.DataFrame
        As :meth:`Results.described`, with side: ``helps`` or ``hinders`` by the sign of the score, with
        ``least`` where an end of the ranking has the other end's sign; no example twice.
    """
    frame = results.described()
    frame = frame[frame["target"] == target].sort_values("rank")
    few = min(shown, len(frame) // 2) or 1
    top, bottom = frame.head(few), frame.tail(few)[::-1]
    top = top.assign(side=["helps" if score > 0 else "hinders least" for score in top["score"]])
    bottom = bottom.assign(side=["helps least" if score > 0 else "hinders" for score in bottom["score"]])
    return pd.concat([top, bottom]).drop_duplicates("id")


def agreement(results: Results) -> pd.DataFrame:
    """Return Spearman's correlation of the influence scores with two simpler ones, per target.

    Returns
    -------
    pandas.DataFrame
        target, score (``cosine of gradients``, ``response tokens``), spearman (NaN where one of both is
        constant), n.
    """
    rows = []
    for target in results.targets:
        ours = results.examples[results.examples["target"] == target].set_index("id")
        cosine = results.gradcos[results.gradcos["target"] == target].set_index("id")["score"]
        for name, other in (("cosine of gradients", cosine), ("response tokens", ours["n_tokens"])):
            value = ours["score"].rank().corr(other.reindex(ours.index).rank())
            rows.append({"target": target, "score": name, "spearman": float(value), "n": len(ours)})
    return pd.DataFrame(rows)


def sums_differ_by(results: Results) -> dict[str, float]:
    """Return how far sums over sentences, and over tokens, lie from example scores, of the largest score."""
    whole = results.examples.set_index(["id", "target"])["score"]
    return {
        name: float((part.groupby(["id", "target"])["score"].sum() - whole).abs().max() / whole.abs().max())
        for name, part in (("sentences", results.sentences), ("tokens", results.tokens))
    }
