"""From scores to attributes: which kinds of training data help which target.

Scores of several models are put on one scale by dividing by their standard deviation
over the training examples (per model and target), so that a group's mean reads "so many
standard deviations more helpful than nothing". The zero is kept: a positive mean still
says that up-weighting the group raises the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from infra_lib.errors import NumericalError, ParameterError
from infra_lib.examples import Example
from infra_lib.frames import rows as each_row
from infra_lib.statistics import crossed_bootstrap, paired_difference, percentile_interval


def correct_responses(
    problems: Sequence[Example], answers: pd.DataFrame
) -> dict[int, dict[str, list[Example]]]:
    """Return, per base and domain, the problems a model solved with the response it wrote.

    Parameters
    ----------
    problems
        The target split.
    answers
        Graded answers with columns base_seed, id, response, correct.

    Raises
    ------
    ParameterError
        Where a model solved no problem of a domain, since its target would be empty.
    """
    by_id = {example.id: example for example in problems}
    domains = sorted({example.domain for example in problems})
    solved: dict[int, dict[str, list[Example]]] = {}
    for base_seed, rows in answers[answers["correct"]].groupby("base_seed"):
        # One response per problem, the first that is right.
        first = rows.drop_duplicates("id")
        examples = [replace(by_id[row.id], response=row.response, sentences=()) for row in each_row(first)]
        solved[int(base_seed)] = {d: [ex for ex in examples if ex.domain == d] for d in domains}
    for base_seed in answers["base_seed"].unique():
        for domain in domains:
            if not solved.get(int(base_seed), {}).get(domain):
                raise ParameterError(
                    "target_examples",
                    f"no {domain} problem solved by base {base_seed}",
                    "large enough, or training long enough, that each domain has correct answers",
                )
    return solved


def reference_responses(
    problems: Sequence[Example], base_seeds: Sequence[int]
) -> dict[int, dict[str, list[Example]]]:
    """Return, per base and domain, the problems with the data's own solutions.

    Raises
    ------
    ParameterError
        Where no problem has a solution.
    """
    solved: dict[str, list[Example]] = {}
    for example in problems:
        if example.response.strip():
            solved.setdefault(example.domain, []).append(example)
    if not solved:
        raise ParameterError("target_responses", "reference", "own: no target problem comes with a solution")
    return {seed: dict(sorted(solved.items())) for seed in base_seeds}


def target_counts(solved: Mapping[int, Mapping[str, Sequence[Example]]]) -> pd.DataFrame:
    """Count correct responses: columns base_seed, domain, difficulty (0 where there is none), n."""
    rows = [
        {"base_seed": base_seed, "domain": domain, "difficulty": level, "n": count}
        for base_seed, domains in sorted(solved.items())
        for domain, examples in sorted(domains.items())
        for level, count in sorted(Counter(ex.difficulty or 0 for ex in examples).items())
    ]
    return pd.DataFrame(rows)


def score_table(
    scores: Mapping[str, np.ndarray], examples: Sequence[Example], n_tokens: Sequence[int]
) -> pd.DataFrame:
    """Return scores as a tidy table: id, target, score, rank (1 = most helpful), n_tokens.

    Parameters
    ----------
    scores
        Target name to scores, each of shape [examples].
    n_tokens
        Loss-carrying tokens of each example.
    """
    ids = [example.id for example in examples]
    frames = []
    for target, values in scores.items():
        # Ties are broken by id, so that ranks do not depend on the order of the file.
        order = np.lexsort((np.array(ids), -np.asarray(values)))
        rank = np.empty(len(ids), dtype=np.int64)
        rank[order] = np.arange(1, len(ids) + 1)
        frames.append(
            pd.DataFrame(
                {"id": ids, "target": target, "score": values, "rank": rank, "n_tokens": list(n_tokens)}
            )
        )
    return pd.concat(frames, ignore_index=True)


def standardised(scores: pd.DataFrame) -> pd.DataFrame:
    """Add column ``z``: the score over the standard deviation of its model (base_seed) and target.

    Raises
    ------
    NumericalError
        Where all scores of a model and target are equal.
    """
    deviation = scores.groupby(["base_seed", "target"])["score"].transform("std")
    if not (deviation > 0).all():
        raise NumericalError("all influence scores of a model and target are equal; nothing can be ranked")
    return scores.assign(z=scores["score"] / deviation)


def group_influence(
    scores: pd.DataFrame,
    examples: pd.DataFrame,
    by: Sequence[str] = ("domain", "difficulty"),
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the mean standardised influence of each group of training examples on each target.

    Parameters
    ----------
    scores
        Columns base_seed, id, target, score.
    examples
        Columns id and those named in ``by``; examples without a value (no difficulty, say) are a group, the
        last.

    Returns
    -------
    pandas.DataFrame
        target, the columns of ``by``, mean, low, high (crossed bootstrap over models and examples),
        runs (models), n (examples).
    """
    rows = []
    keys = list(by)
    for (target, *group), table in _tables(scores, examples, keys):
        interval, _ = crossed_bootstrap(table, samples=samples, confidence=confidence, seed=seed)
        rows.append(
            {
                "target": target,
                **dict(zip(keys, group, strict=True)),
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "runs": interval.runs,
                "n": interval.problems,
            }
        )
    # A group without a difficulty would make the column one of objects.
    columns = ["target", *keys, "mean", "low", "high", "runs", "n"]
    return pd.DataFrame(rows, columns=columns).astype({name: examples[name].dtype for name in keys})


def _tables(
    scores: pd.DataFrame, examples: pd.DataFrame, keys: list[str]
) -> Iterator[tuple[tuple, np.ndarray]]:
    """Yield ((target, *group), table [models, examples]) in sorted order."""
    # Standardised over all examples, then cut to those at hand.
    merged = standardised(scores).merge(examples[["id", *keys]], on="id", validate="many_to_one")
    for group, rows in merged.groupby(["target", *keys], sort=True, observed=True, dropna=False):
        yield group, rows.pivot(index="base_seed", columns="id", values="z").to_numpy()


def hard_minus_easy(
    scores: pd.DataFrame,
    examples: pd.DataFrame,
    *,
    easy: Sequence[int],
    hard: Sequence[int],
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return, per target and training domain, the mean influence of hard minus that of easy examples.

    Returns
    -------
    pandas.DataFrame
        target, domain, difference, low, high, n_hard, n_easy, runs; positive means that hard examples
        help more.
    """
    levels = dict.fromkeys(easy, "easy") | dict.fromkeys(hard, "hard")
    banded = examples.assign(band=examples["difficulty"].map(levels))
    return contrast(
        scores, banded, "band", ("hard", "easy"), samples=samples, confidence=confidence, seed=seed
    )


def contrast(
    scores: pd.DataFrame,
    examples: pd.DataFrame,
    column: str,
    values: tuple[str, str],
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return, per target and training domain, the mean influence of one group minus that of another.

    Parameters
    ----------
    column, values
        The groups: examples whose ``column`` is the first value, minus those with the second.

    Returns
    -------
    pandas.DataFrame
        target, domain, difference, low, high, n_<first>, n_<second>, runs, for domains that have both.
    """
    chosen = examples[examples[column].isin(values)]
    cells = dict(_tables(scores, chosen, ["domain", column]))
    rows = []
    for target, domain in sorted({(key[0], key[1]) for key in cells}):
        parts = {v: cells[target, domain, v] for v in values if (target, domain, v) in cells}
        if len(parts) < 2:
            continue
        # The groups share their models (same seed) and not their examples (another stream).
        means = [
            crossed_bootstrap(table, samples=samples, confidence=confidence, seed=seed, problem_stream=stream)
            for stream, table in enumerate(parts.values())
        ]
        low, high = percentile_interval(means[0][1] - means[1][1], confidence)
        rows.append(
            {
                "target": target,
                "domain": domain,
                "difference": means[0][0].mean - means[1][0].mean,
                "low": low,
                "high": high,
                f"n_{values[0]}": means[0][0].problems,
                f"n_{values[1]}": means[1][0].problems,
                "runs": means[0][0].runs,
            }
        )
    counts = [f"n_{value}" for value in values]
    return pd.DataFrame(rows, columns=["target", "domain", "difference", "low", "high", *counts, "runs"])


def extreme_examples(scores: pd.DataFrame, examples: pd.DataFrame, *, count: int = 3) -> pd.DataFrame:
    """Return, per target, the examples that help and hinder most, by mean standardised score over models.

    Returns
    -------
    pandas.DataFrame
        target, side (helps, hinders), z, id, domain, difficulty, category, prompt, response.
    """
    mean = standardised(scores).groupby(["target", "id"])["z"].mean().reset_index()
    parts = []
    for _, rows in mean.groupby("target"):
        ordered = rows.sort_values(["z", "id"], ascending=[False, True])
        parts += [ordered.head(count).assign(side="helps"), ordered.tail(count)[::-1].assign(side="hinders")]
    columns = ["id", "domain", "difficulty", "category", "prompt", "response"]
    return pd.concat(parts).merge(examples[columns], on="id", how="left").reset_index(drop=True)


def rank_agreement(scores: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's correlation of scores between each pair of models, per target."""
    rows = []
    for target, part in scores.groupby("target"):
        wide = part.pivot(index="id", columns="base_seed", values="score")
        ranks = wide.rank().corr()
        names = list(wide.columns)
        rows += [
            {"target": target, "first": a, "second": b, "spearman": float(ranks.loc[a, b]), "n": len(wide)}
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        ]
    return pd.DataFrame(rows, columns=["target", "first", "second", "spearman", "n"])


def compare_arms(
    answers: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare arms on the problems and runs that they share.

    Parameters
    ----------
    answers
        Columns arm, base_seed, seed, domain, id, correct.
    pairs
        (first, second) arm names; the difference is first − second.

    Returns
    -------
    pandas.DataFrame
        arm_a, arm_b, domain, difference, low, high, p_value, p_problems, p_runs, runs, n.
    """
    options: dict[str, Any] = {"samples": samples, "confidence": confidence, "seed": seed}
    rows = [
        {**names, **paired_difference(first.to_numpy(), second.to_numpy(), **options)}
        for names, first, second in _paired(answers, pairs)
    ]
    compared = ["difference", "low", "high", "p_value", "p_problems", "p_runs", "runs", "n"]
    return pd.DataFrame(rows, columns=["arm_a", "arm_b", "domain", *compared])


def compare_arms_by_base(
    answers: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare arms as :func:`compare_arms` does, on each base by itself.

    Returns
    -------
    pandas.DataFrame
        arm_a, arm_b, domain, base_seed, difference, low, high (over the base's seeds, and problems), runs, n.
    """
    rows = []
    for base_seed, own in answers.groupby("base_seed"):
        for names, first, second in _paired(own, pairs):
            table = (first - second).to_numpy()
            found, _ = crossed_bootstrap(table, samples=samples, confidence=confidence, seed=seed)
            named = {"difference": found.mean, "low": found.low, "high": found.high}
            counts = {"runs": found.runs, "n": found.problems}
            rows.append({**names, "base_seed": base_seed, **named, **counts})
    columns = ["arm_a", "arm_b", "domain", "base_seed", "difference", "low", "high", "runs", "n"]
    return pd.DataFrame(rows, columns=columns)


def _paired(
    answers: pd.DataFrame, pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[dict[str, str], pd.DataFrame, pd.DataFrame]]:
    """Yield the names of each pair and domain that is there, and the two tables [runs, problems]."""
    for domain, part in answers.groupby("domain"):
        wide = {
            # Several samples of a problem count as their mean.
            arm: group.assign(correct=group["correct"].astype(float)).pivot_table(
                index=["base_seed", "seed"], columns="id", values="correct", aggfunc="mean"
            )
            for arm, group in part.groupby("arm")
        }
        for first, second in pairs:
            if first in wide and second in wide:
                a, b = wide[first].align(wide[second], join="inner")
                yield {"arm_a": first, "arm_b": second, "domain": str(domain)}, a, b
