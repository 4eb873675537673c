"""Groups of training examples, taken away and doubled: what retraining does beside what the scores say.

A group is one difficulty or one category of one domain. Models are trained again without it and with twice
its weight, from the same base with the seeds of the models that were trained on everything, and take the same
exam. The forecast is the derivative's: the sum of the group's scores times the change of weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from infra_lib.experiment import Run
from infra_lib.statistics import (
    crossed_bootstrap,
    crossed_ratios,
    percentile_interval,
    runs_by_problems,
)
from infra_lib.validation.bench import Bench, Targets
from infra_lib.validation.gradients import Key
from infra_lib.validation.report import on_target
from infra_lib.validation.scores import ModelScores, mean_scores

CHANGES: Mapping[str, float] = {"removed": 0.0, "doubled": 2.0}
"""What is done to a group, and the weight that its examples get; all others have one."""


@dataclass(frozen=True)
class Group:
    """A group and what is done to it.

    Attributes
    ----------
    domain, difficulty, category
        Which examples: those of a difficulty (None: without one) or, where it is given, of a category.
    change
        One of :data:`CHANGES`.
    members
        bool [examples], True for those of the group.
    weights
        Of the training examples, mean one over those that are left [examples]; zero leaves an example out.
        Training scales weights so, and a forecast must: what is doubled takes its share from the others.
    runs
        One training for each of the first seeds of the models that were trained on everything.
    """

    domain: str
    difficulty: int | None
    category: str | None
    change: str
    members: np.ndarray
    weights: np.ndarray
    runs: tuple[Run, ...]


def group_runs(bench: Bench) -> list[Group]:
    """Return every group with every change, and the trainings that they ask for (``group_seeds`` each).

    Groups are those of the levels and of the categories that the study names, and examples without a level.
    A group that is all of the training set is left out: nothing is left without it. So is one that has the
    examples of another.
    """
    found: list[Group] = []
    for domain, difficulty, category, members in _groups(bench):
        if members.all() or any((members == group.members).all() for group in found):
            continue
        for change, weight in CHANGES.items():
            weights = np.where(members, weight, 1.0)
            kept = np.flatnonzero(weights)
            weights /= weights[kept].mean()
            runs = tuple(
                replace(
                    run,
                    arm=f"{change} {domain} {difficulty if category is None else f'of {category}'}",
                    train=[bench.train[row] for row in kept],
                    weights=weights[kept].tolist() if change == "doubled" else None,
                )
                for run in bench.runs[: bench.params.group_seeds]
            )
            found.append(Group(domain, difficulty, category, change, members, weights, runs))
    return found


def _groups(bench: Bench) -> Iterator[tuple[str, int | None, str | None, np.ndarray]]:
    """Yield domain, difficulty, category and members of each group, mathematics first, levels first."""
    rows = [(example.domain, example.difficulty, example.category) for example in bench.train]
    domains, levels, categories = np.array(rows, dtype=object).T
    for domain in sorted(set(domains), key=lambda name: (name != "math", name)):
        own = domains == domain
        named = set(levels[own]) & {None, *bench.params.group_levels}
        for level in sorted(named, key=lambda level: level or 0):
            yield domain, level, None, own & (levels == level)
        for category in bench.params.group_categories:
            members = own & (categories == category)
            if members.any():
                yield domain, None, category, members


def group_table(
    targets: Targets,
    groups: Sequence[Group],
    answers: pd.DataFrame,
    models: Sequence[ModelScores],
    *,
    key: Key,
    tokens: str,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what each change of a group did to each target, beside the forecast.

    Parameters
    ----------
    answers
        Graded answers of the bench's runs (arm ``validation``) and of all groups' runs: columns arm, seed,
        id, domain, correct.
    models, key
        Scores, and the method and damping that make the forecast.

    Returns
    -------
    pandas.DataFrame
        target, domain, difficulty, category, change, predicted (in the scores' units), nats (change of the
        target's log-likelihood per response), low, high (crossed bootstrap over seeds and responses),
        accuracy, accuracy_low, accuracy_high (change, over seeds and problems), seeds, responses, n
        (examples).
    """
    bench = targets.bench
    whole = bench.runs[: bench.params.group_seeds]
    before = targets.of_models(tokens, whole)  # [seeds, responses]
    asked = answers[answers["seed"].isin([run.seed for run in whole])]
    graded = dict(iter(asked.groupby("arm")))
    how: dict[str, Any] = {"samples": samples, "confidence": confidence, "seed": seed}
    rows = []
    for group in groups:
        change = targets.of_models(tokens, group.runs) - before
        for domain in targets.domains:
            shares = targets.weights(domain)
            counted = shares > 0
            nats, _ = crossed_bootstrap(change[:, counted], **how)
            score = on_target(mean_scores(models, domain)[key], shares[~targets.own])
            exam = [
                runs_by_problems(graded[arm][graded[arm]["domain"] == domain], run=["seed"]).to_numpy()
                for arm in (group.runs[0].arm, bench.runs[0].arm)
            ]
            accuracy, _ = crossed_bootstrap(exam[0] - exam[1], **how)
            rows.append(
                {
                    "target": domain,
                    "domain": group.domain,
                    "difficulty": group.difficulty,
                    "category": group.category,
                    "change": group.change,
                    "predicted": float((group.weights - 1) @ score),
                    "nats": nats.mean,
                    "low": nats.low,
                    "high": nats.high,
                    "accuracy": accuracy.mean,
                    "accuracy_low": accuracy.low,
                    "accuracy_high": accuracy.high,
                    "seeds": nats.runs,
                    "responses": nats.problems,
                    "n": int(group.members.sum()),
                }
            )
    return pd.DataFrame(rows)


def sign_agreement(
    table: pd.DataFrame, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Return how often forecast and outcome have the same sign, and how well they rank alike.

    Parameters
    ----------
    table
        As :func:`group_table` gives it.

    Returns
    -------
    pandas.DataFrame
        target, change (each, and ``both``: the effect of more of a group, for which removals count with
        their sign turned), agree (part of the changes whose log-likelihood has the sign of the forecast),
        low, high (bootstrap over groups), constant (the same for the best forecast that knows the change and
        not the group), clear (agreement among changes whose interval excludes zero), n, n_clear, spearman
        (forecast and outcome), seeds (retrainings of each change).
    """
    turned = np.where(table["change"] == "removed", -1.0, 1.0)
    more = table.assign(
        predicted=table["predicted"] * turned, nats=table["nats"] * turned, up=np.sign(table["nats"])
    )
    rows = []
    parts = [*more.groupby(["target", "change"]), *(((t, "both"), p) for t, p in more.groupby("target"))]
    for (target, change), part in parts:
        same = (np.sign(part["predicted"]) == np.sign(part["nats"])).to_numpy(float)
        sure = ((part["low"] > 0) | (part["high"] < 0)).to_numpy()
        # A group is a unit: its removal and its doubling are drawn together.
        names = [name for name in ("domain", "difficulty", "category") if name in part]
        units = part.groupby(names, dropna=False).ngroup().to_numpy()
        sums = np.array([np.bincount(units, weights=w) for w in (same, np.ones(len(same)))])
        _, draws = crossed_ratios(sums[:1, None], sums[1:, None], samples=samples, seed=seed)
        low, high = percentile_interval(draws[:, 0], confidence)
        commonest = [own["up"].value_counts().max() for _, own in part.groupby("change")]
        varied = part["predicted"].nunique() > 1 and part["nats"].nunique() > 1
        ranks = stats.spearmanr(part["predicted"], part["nats"]).statistic if varied else np.nan
        rows.append(
            {
                "target": target,
                "change": change,
                "agree": float(same.mean()),
                "low": low,
                "high": high,
                "constant": sum(commonest) / len(part),
                "clear": float(same[sure].mean()) if sure.any() else np.nan,
                "n": len(part),
                "n_clear": int(sure.sum()),
                "spearman": float(ranks),
                "seeds": int(part["seeds"].max()),
            }
        )
    return pd.DataFrame(rows)
