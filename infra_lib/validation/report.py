"""The tables of a validation: LDS by method, damping and target, differences, ceiling, choice of target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from infra_lib.statistics import crossed_bootstrap, percentile_interval
from infra_lib.validation import lds
from infra_lib.validation.bench import Targets
from infra_lib.validation.gradients import Key
from infra_lib.validation.retraining import target_values
from infra_lib.validation.scores import ModelScores, mean_scores
from infra_lib.validation.subsets import ENDS, chance_removal, extremes

MEAN = "mean"
"""Name of the mean over the domains' targets."""


class Measured:
    """What retrainings said of the target responses.

    Parameters
    ----------
    targets
        The responses.
    seeds
        Seeds of each subset's retrainings; ``results`` are in this order.
    results
        As :func:`infra_lib.validation.retraining.run_all` gives them.
    """

    def __init__(
        self, targets: Targets, seeds: Sequence[Sequence[int]], results: Sequence[Sequence[np.ndarray]]
    ) -> None:
        self.targets, self.counts = targets, [len(own) for own in seeds]
        self._results = results

    def mean(self, tokens: str, seeds: int) -> np.ndarray:
        """Return log-likelihoods [subsets, responses] in nats, the mean of each subset's first seeds."""
        values = target_values(self._results, self.targets.masks[tokens])
        parts = np.split(values, np.cumsum(self.counts)[:-1])
        return np.stack([part[:seeds].mean(axis=0) for part in parts])

    def repeated(self, tokens: str, repeats: int) -> np.ndarray:
        """Return log-likelihoods [subsets, seeds, responses] of the subsets with so many seeds."""
        values = target_values(self._results, self.targets.masks[tokens])
        parts = np.split(values, np.cumsum(self.counts)[:-1])
        return np.stack([part[:repeats] for part in parts if len(part) >= repeats])


def lds_tables(
    targets: Targets,
    measured: Measured,
    models: Sequence[ModelScores],
    *,
    tokens: str,
    each: bool = False,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Return the tables of the linear datamodeling score.

    Parameters
    ----------
    models
        Scores of each model on the reference responses; they are averaged.
    tokens
        The choice of tokens that the scores are of, and that is measured.
    each
        Judge every response by itself and average, see :func:`infra_lib.validation.lds.fold_scores`.

    Returns
    -------
    dict
        All with unit (``response`` with ``each``, else ``target``). ``lds``: method, target (a domain, or
        the mean over them), selection (``fixed``: this damping on all subsets; ``held out``: tuned on one
        half and read on the other, both ways), damping (NaN where there is none, or where the halves chose
        different ones), dampings (of each half, as text), lds, low, high, subsets, seeds, models,
        responses. ``differences``: the held-out LDS of EK-FAC, or of its refinement, minus each other
        method's, paired. ``single``: held-out LDS of each model alone.
    """
    params = targets.bench.params
    membership, seeds = targets.bench.membership, params.validation_seeds
    rows = np.flatnonzero(~targets.own)
    values = measured.mean(tokens, seeds)[:, rows]
    shares = {domain: targets.weights(domain)[rows] for domain in targets.domains}
    draws = {
        d: lds.draw(len(membership), weights, samples=samples, seed=seed) for d, weights in shares.items()
    }
    common: dict[str, Any] = {"subsets": len(membership), "seeds": seeds, "models": len(models)}

    # Of single models the estimate alone is reported; the halves are the same.
    plain = {d: lds.draw(len(membership), weights, samples=1, seed=seed) for d, weights in shares.items()}

    def sampled(
        some: Sequence[ModelScores], draws: Mapping[str, lds.Draws]
    ) -> dict[str, dict[Key, np.ndarray]]:
        found = {
            d: lds.sampled_scores(mean_scores(some, d), membership, values, draws[d], each=each)
            for d in shares
        }
        keys = list(next(iter(found.values())))
        return found | {MEAN: {key: np.mean([found[d][key] for d in shares], axis=0) for key in keys}}

    every = sampled(models, draws)
    chosen = lds.tune([every[d] for d in shares])
    held = {target: lds.held_out(by_key, chosen) for target, by_key in every.items()}

    def row(method: str, target: str, drawn: np.ndarray, selection: str, own: Sequence[float | None]) -> dict:
        low, high = percentile_interval(drawn[1:], confidence)
        same = own[0] if len(set(own)) == 1 else None
        return {
            "method": method,
            "target": target,
            "selection": selection,
            "damping": np.nan if same is None else same,
            "dampings": ", ".join(f"{value:g}" for value in own if value is not None),
            "lds": float(drawn[0]),
            "low": low,
            "high": high,
            **common,
            "responses": int((shares[target] > 0).sum()) if target in shares else len(rows),
        }

    table = [
        row(method, target, drawn, "held out", chosen[method])
        for target, by_method in held.items()
        for method, drawn in by_method.items()
    ]
    table += [
        row(key[0], target, halves.mean(axis=0), "fixed", [key[1]])
        for target, by_key in every.items()
        for key, halves in by_key.items()
    ]
    single = []
    for number, model in enumerate(models):
        alone = sampled([model], plain)
        own = lds.tune([alone[d] for d in shares])
        single += [
            {"model": number, "method": method, "target": target, "lds": float(drawn[0])}
            for target, by_key in alone.items()
            for method, drawn in lds.held_out(by_key, own).items()
        ]
    gaps = [
        lds.differences(by_method, reference, confidence=confidence).assign(
            reference=reference, target=target
        )
        for target, by_method in held.items()
        for reference in ("ekfac", "refined")
        if reference in by_method
    ]
    tables = {
        "lds": pd.DataFrame(table),
        "differences": pd.concat(gaps, ignore_index=True) if gaps else pd.DataFrame(),
        "single": pd.DataFrame(single),
    }
    unit = "response" if each else "target"
    return {name: frame.assign(unit=unit) for name, frame in tables.items()}


def both_units(
    targets: Targets,
    measured: Measured,
    models: Sequence[ModelScores],
    *,
    tokens: str,
    samples: int,
    **more: Any,
) -> dict[str, pd.DataFrame]:
    """Return the tables of :func:`lds_tables` for whole targets and for each response, one above the other.

    The second takes a quarter of the resamples, since it costs as much as there are responses.
    """
    whole = lds_tables(targets, measured, models, tokens=tokens, samples=samples, **more)
    alone = lds_tables(
        targets, measured, models, tokens=tokens, each=True, samples=max(100, samples // 4), **more
    )
    return {name: pd.concat([whole[name], alone[name]], ignore_index=True) for name in whole}


def ceiling_table(
    targets: Targets,
    measured: Measured,
    *,
    tokens: str,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the noise ceiling of each domain's target and of their mean.

    Returns
    -------
    pandas.DataFrame
        target, single, reliability, ceiling, low, high, subsets, repeats, seeds; empty where no subset has
        two seeds. The mean has no interval: the ends of its targets' are not its own.
    """
    params = targets.bench.params
    repeats = max(params.ceiling_seeds, params.validation_seeds)
    if repeats < 2 or sum(count >= repeats for count in measured.counts) < 3:
        return pd.DataFrame()
    values = measured.repeated(tokens, repeats)
    rows = [
        {"target": domain}
        | lds.noise_ceiling(
            values @ targets.weights(domain),
            params.validation_seeds,
            samples=samples,
            confidence=confidence,
            seed=seed,
        )
        for domain in targets.domains
    ]
    frame = pd.DataFrame(rows)
    mean = frame.drop(columns="target").mean().to_dict() | {"target": MEAN, "low": np.nan, "high": np.nan}
    return pd.concat([frame, pd.DataFrame([mean])], ignore_index=True).assign(seeds=params.validation_seeds)


def choice_table(
    targets: Targets,
    measured: Measured,
    scores: Mapping[tuple[str, str], Sequence[ModelScores]],
    *,
    key: Key,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare choices of the target: which tokens, whose responses, balanced by difficulty or not.

    Parameters
    ----------
    scores
        (tokens, responses) to the scores of each model.
    key
        Method and damping, the same for all choices.

    Returns
    -------
    pandas.DataFrame
        tokens, responses, balanced, domain, lds, low, high (of the choice's own log-likelihood), outcome
        (LDS against the log-likelihood of the final answers of the reference responses, balanced: the same
        for all choices), outcome_low, outcome_high, n (responses).
    """
    params = targets.bench.params
    membership, seeds = targets.bench.membership, params.validation_seeds
    answers = measured.mean("final", seeds)
    outcomes = {domain: answers @ targets.weights(domain, balanced=True) for domain in targets.domains}
    rows = []
    for (tokens, responses), models in scores.items():
        mine = np.flatnonzero(targets.own == (responses == "own"))
        own_values = measured.mean(tokens, seeds)[:, mine]
        for domain in targets.domains:
            if not targets.weights(domain, responses=responses).any():
                continue
            effects = lds.group_effects(membership, mean_scores(models, domain)[key])
            for balanced in (False, True):
                shares = targets.weights(domain, responses=responses, balanced=balanced)[mine]
                draws = lds.draw(len(membership), shares, samples=samples, seed=seed)
                own = lds.fold_scores(effects, own_values, draws).mean(axis=0)
                outcome = np.repeat(outcomes[domain][:, None], len(mine), 1)
                other = lds.fold_scores(effects, outcome, draws).mean(axis=0)
                row: dict[str, Any] = {
                    "tokens": tokens,
                    "responses": responses,
                    "balanced": balanced,
                    "domain": domain,
                }
                for name, sampled in (("", own), ("outcome_", other)):
                    low, high = percentile_interval(sampled[1:], confidence)
                    row |= {
                        f"{name}low": low,
                        f"{name}high": high,
                        name.rstrip("_") or "lds": float(sampled[0]),
                    }
                rows.append(row | {"n": int((shares > 0).sum())})
    return pd.DataFrame(rows)


def on_target(table: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return scores on a target [training examples] from those on its responses, or on the whole of it."""
    return table[:, 0] if table.shape[1] == 1 else table @ shares


def removal_plan(
    targets: Targets, models: Sequence[ModelScores], keys: Mapping[str, Key]
) -> tuple[pd.DataFrame, np.ndarray]:
    """Choose what to remove: each method's top and bottom examples for each domain, and random ones.

    Parameters
    ----------
    keys
        Method to the damping that was tuned for it.

    Returns
    -------
    tuple
        method, target, end, fraction, removed per row; and which examples are left, bool [rows, examples].
    """
    params = targets.bench.params
    ids = [example.id for example in targets.bench.train]
    rows, left = [], []
    for fraction in params.removal_fractions:
        count = max(1, round(fraction * len(ids)))
        for domain in targets.domains:
            shares = targets.weights(domain)[~targets.own]
            by_key = mean_scores(models, domain)
            for method, key in keys.items():
                score = on_target(by_key[key], shares)
                for end in ENDS:
                    rows.append({"method": method, "target": domain, "end": end, "fraction": fraction})
                    left.append(~extremes(score, ids, count, end))
        for draw in range(params.removal_draws):
            rows.append({"method": "random", "target": None, "end": f"draw {draw}", "fraction": fraction})
            left.append(~chance_removal(ids, count, seed=params.seed + draw))
    frame = pd.DataFrame(rows)
    kept = np.array(left).reshape(len(rows), len(ids))
    return frame.assign(removed=len(ids) - kept.sum(axis=1)), kept


def removal_table(
    targets: Targets,
    plan: pd.DataFrame,
    results: Sequence[Sequence[np.ndarray]],
    *,
    tokens: str,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what each removal did to its target.

    Parameters
    ----------
    plan
        As :func:`removal_plan` gives it.
    results
        Of its retrainings, removal by removal, ``removal_seeds`` each.

    Returns
    -------
    pandas.DataFrame
        method, target, end, fraction, removed, change (nats per response, against the models that were
        trained on everything), low, high (over retrainings and target responses), seeds. Random removals
        stand once for each target, over all draws.
    """
    seeds = targets.bench.params.removal_seeds
    values = target_values(results, targets.masks[tokens]).reshape(len(plan), seeds, -1)
    changes = values - targets.of_models(tokens).mean(axis=0)
    rows = []
    for domain in targets.domains:
        counted = targets.weights(domain) > 0
        mine = plan["target"].eq(domain) | plan["method"].eq("random")
        groups = plan[mine].assign(end=plan["end"].where(plan["method"].ne("random"), "random"))
        for (method, end, fraction), part in groups.groupby(["method", "end", "fraction"], sort=False):
            table = changes[part.index][:, :, counted].reshape(-1, counted.sum())
            mean, _ = crossed_bootstrap(table, samples=samples, confidence=confidence, seed=seed)
            rows.append(
                {
                    "method": method,
                    "target": domain,
                    "end": end,
                    "fraction": fraction,
                    "removed": int(part["removed"].iloc[0]),
                    "change": mean.mean,
                    "low": mean.low,
                    "high": mean.high,
                    "retrainings": mean.runs,
                    "responses": mean.problems,
                }
            )
    return pd.DataFrame(rows)


def brittleness_table(
    targets: Targets, models: Sequence[ModelScores], keys: Mapping[str, Key], *, top: float = 0.1
) -> pd.DataFrame:
    """Return how far rankings agree between models that differ in the seed of their training alone.

    Returns
    -------
    pandas.DataFrame
        method, target, spearman (mean over pairs of models), lowest (pair), overlap (part of the top
        examples that two models share; ``top`` would be chance), pairs, models.
    """
    rows = []
    for domain in targets.domains:
        shares = targets.weights(domain)[~targets.own]
        for method, key in keys.items():
            scores = [on_target(model.on(domain)[key], shares) for model in models]
            pairs = list(combinations(scores, 2))
            if not pairs:
                continue
            agreement = [float(stats.spearmanr(a, b).statistic) for a, b in pairs]
            count = max(1, round(top * len(scores[0])))
            shared = [
                len(set((-a).argsort()[:count]) & set((-b).argsort()[:count])) / count for a, b in pairs
            ]
            rows.append(
                {
                    "method": method,
                    "target": domain,
                    "spearman": float(np.mean(agreement)),
                    "lowest": min(agreement),
                    "overlap": float(np.mean(shared)),
                    "pairs": len(pairs),
                    "models": len(models),
                }
            )
    return pd.DataFrame(rows)


def tuned_keys(table: pd.DataFrame) -> dict[str, Key]:
    """Return each method's best damping over all subsets, for what is measured on other retrainings.

    Parameters
    ----------
    table
        ``lds`` of :func:`lds_tables`.
    """
    fixed = table[
        (table["selection"] == "fixed") & (table["target"] == MEAN) & (table["unit"] == "target")
    ].set_index("method")
    keys: dict[str, Key] = {}
    for method in fixed.index.unique():
        own = fixed.loc[[method]]
        damping = float(own["damping"].iloc[int(own["lds"].to_numpy().argmax())])
        keys[str(method)] = (str(method), None if np.isnan(damping) else damping)
    return keys
