r"""The linear datamodeling score (LDS): how well sums of scores predict retraining on a subset.

For a subset S of the training set, f(S) is the target measured after training on S, and the score
of a method predicts g(S) = Σ_{i∈S} score_i. The LDS of a method is Spearman's correlation between f
and g over random subsets (Park et al. 2023, arXiv 2303.14186, section 3; Ilyas et al. 2022).

Three things are kept apart:

* **Tuning.** The damping of a method is the one with the best LDS on *one half of the subsets*, and
  its LDS is read on the other half; both ways, and the two are averaged. So no subset judges a
  damping that it helped to choose.
* **Noise.** Training on S twice gives two values of f. With r the mean correlation between single
  retrainings, the mean of k of them has reliability k r / (1 + (k − 1) r) (Spearman 1910, Brown
  1910), and the best possible prediction of it correlates by the root of that: the *noise ceiling*.
* **Intervals.** Subsets and target examples are both samples; both are drawn again, together, the
  same for all methods, so that differences between methods are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from infra_lib.errors import NumericalError, ParameterError
from infra_lib.statistics import percentile_interval
from infra_lib.validation.gradients import Key

Scores = Mapping[Key, np.ndarray]
"""(method, damping) to scores [training examples, target examples]."""


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation along the first axis, for each column of two equal shapes.

    Ties share their mean rank. A column without any spread gives NaN.
    """
    ranks = [stats.rankdata(values, axis=0) for values in (first, second)]
    centred = [values - values.mean(axis=0) for values in ranks]
    scale = np.sqrt((centred[0] ** 2).sum(axis=0) * (centred[1] ** 2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (centred[0] * centred[1]).sum(axis=0) / scale, np.nan)


def group_effects(membership: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return g(S) = Σ_{i∈S} score_i [subsets, targets] for members [subsets, examples]."""
    if membership.shape[1] != len(scores):
        valid = f"one row for each of the {membership.shape[1]} training examples"
        raise ParameterError("scores", scores.shape, valid)
    if not np.isfinite(scores).all():
        raise NumericalError("scores that are not finite predict nothing")
    return membership.astype(np.float64) @ scores


@dataclass(frozen=True)
class Draws:
    """Resamples of subsets and target examples, shared by all methods so that they can be compared.

    Attributes
    ----------
    folds
        Indices of the subsets of each half.
    subsets
        Per half, drawn indices [in the half, samples]; the first column is the half as it is.
    weights
        Weights of the target examples [target examples, samples]; the first column is the target's own.
    """

    folds: tuple[np.ndarray, ...]
    subsets: tuple[np.ndarray, ...]
    weights: np.ndarray


def draw(subsets: int, weights: np.ndarray, *, samples: int = 1000, folds: int = 2, seed: int = 0) -> Draws:
    """Cut the subsets into halves at random and draw resamples of subsets and target examples.

    Parameters
    ----------
    weights
        [target examples], each one's share of the target, adding up to 1. A resample multiplies them by
        how often each example was drawn.

    Raises
    ------
    ParameterError
        For fewer than three subsets in a half.
    """
    if subsets < 3 * folds:
        raise ParameterError("validation_subsets", subsets, f"{3 * folds} or more")
    rng = np.random.default_rng(seed)
    parts = tuple(np.sort(part) for part in np.array_split(rng.permutation(subsets), folds))
    drawn = tuple(
        np.column_stack([part, part[rng.integers(len(part), size=(len(part), samples))]]) for part in parts
    )
    counted = np.flatnonzero(weights)
    again = rng.multinomial(len(counted), np.full(len(counted), 1 / len(counted)), size=samples)
    resampled = np.zeros((len(weights), samples))
    resampled[counted] = weights[counted, None] * again.T
    resampled /= resampled.sum(axis=0)
    return Draws(parts, drawn, np.column_stack([weights, resampled]))


def fold_scores(
    predicted: np.ndarray, measured: np.ndarray, draws: Draws, *, each: bool = False
) -> np.ndarray:
    """Return the LDS of each half and resample [halves, 1 + samples]; the first column is not resampled.

    Parameters
    ----------
    predicted, measured
        g and f, [subsets, target examples] each. ``predicted`` may have one column: scores on the target
        as a whole, which stay as they are when target examples are drawn again.
    each
        Take the LDS of every target example by itself and return its mean (as Park et al. define it),
        where otherwise the target is one number, the mean of its examples, in which a few with large
        changes can outweigh all others.
    """
    if each:
        return _mean_of_each(predicted, measured, draws)
    actual = measured @ draws.weights  # [subsets, 1 + samples]
    whole = predicted.shape[1] == 1
    guess = np.broadcast_to(predicted, actual.shape) if whole else predicted @ draws.weights
    return np.stack(
        [
            spearman(np.take_along_axis(guess, rows, 0), np.take_along_axis(actual, rows, 0))
            for rows in draws.subsets
        ]
    )


def _mean_of_each(predicted: np.ndarray, measured: np.ndarray, draws: Draws) -> np.ndarray:
    counted = np.flatnonzero(draws.weights[:, 0])
    weights = draws.weights[counted]
    found = []
    for rows in draws.subsets:
        own = np.stack([spearman(predicted[:, i][rows], measured[:, i][rows]) for i in counted])
        spread = np.isfinite(own)
        with np.errstate(invalid="ignore"):  # NaN where no response has any spread
            found.append((np.where(spread, own, 0) * weights).sum(0) / (spread * weights).sum(0))
    return np.stack(found)


def sampled_scores(
    scores: Scores, membership: np.ndarray, measured: np.ndarray, draws: Draws, *, each: bool = False
) -> dict[Key, np.ndarray]:
    """Return each method's and damping's LDS in each half and resample: [halves, 1 + samples].

    With ``each`` (see :func:`fold_scores`), methods that score whole targets alone are left out.
    """
    return {
        key: fold_scores(group_effects(membership, table), measured, draws, each=each)
        for key, table in scores.items()
        if not (each and table.shape[1] < measured.shape[1])
    }


def tune(sampled: Sequence[Mapping[Key, np.ndarray]]) -> dict[str, list[float | None]]:
    """Choose each method's damping for each half by the *other* half's mean LDS over the targets.

    Parameters
    ----------
    sampled
        For each target, what :func:`sampled_scores` gives; only what was not resampled counts.

    Returns
    -------
    dict
        Method to one damping per half in which its LDS is to be read.
    """
    mean = {key: np.mean([table[key][:, 0] for table in sampled], axis=0) for key in sampled[0]}
    chosen: dict[str, list[float | None]] = {}
    for method in dict.fromkeys(key[0] for key in mean):
        own = [key for key in mean if key[0] == method]
        chosen[method] = []
        for half in range(len(mean[own[0]])):
            elsewhere = {key[1]: float(np.nanmean(np.delete(mean[key], half))) for key in own}
            chosen[method].append(max(elsewhere, key=lambda damping: elsewhere[damping]))
    return chosen


def held_out(
    sampled: Mapping[Key, np.ndarray], chosen: Mapping[str, Sequence[float | None]]
) -> dict[str, np.ndarray]:
    """Return each method's LDS on the subsets that did not choose its damping, [1 + samples].

    The mean over halves; the first value is the estimate, the others its resamples.
    """
    return {
        method: np.mean([sampled[method, damping][half] for half, damping in enumerate(dampings)], axis=0)
        for method, dampings in chosen.items()
    }


def differences(found: Mapping[str, np.ndarray], reference: str, *, confidence: float = 0.95) -> pd.DataFrame:
    """Compare methods with one of them: ``reference − method``, paired over resamples.

    Parameters
    ----------
    found
        Method to [1 + samples] as :func:`held_out` gives it, all from the same draws.

    Returns
    -------
    pandas.DataFrame
        method, difference, low, high, p_value (two-sided, from the bootstrap, never below
        1/(samples + 1)).
    """
    if reference not in found:
        raise ParameterError("reference", reference, f"one of {', '.join(found)}")
    rows = []
    for method, values in found.items():
        if method == reference:
            continue
        gap = found[reference] - values
        drawn = gap[1:][np.isfinite(gap[1:])]
        low, high = percentile_interval(drawn, confidence)
        beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
        p_value = float(min(1.0, 2 * (1 + beyond) / (len(drawn) + 1)))
        rows.append(
            {"method": method, "difference": float(gap[0]), "low": low, "high": high, "p_value": p_value}
        )
    return pd.DataFrame(rows)


def noise_ceiling(
    repeated: np.ndarray, seeds: int, *, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Return what a perfect prediction of f would score against the mean of ``seeds`` retrainings.

    Parameters
    ----------
    repeated
        A target's values [subsets, seeds], two seeds or more.
    seeds
        Retrainings that are averaged where the LDS is measured.

    Returns
    -------
    dict
        ``single`` (mean Spearman correlation between single retrainings), ``reliability`` (of the mean
        of ``seeds``), ``ceiling`` (its root), ``low`` and ``high`` (bootstrap over subsets), ``subsets``,
        ``repeats``. A correlation below zero counts as none.

    Raises
    ------
    ParameterError
        For fewer than three subsets or two seeds.
    """
    count, repeats = repeated.shape
    if count < 3 or repeats < 2:
        raise ParameterError("ceiling", repeated.shape, "three subsets or more, with two seeds or more each")
    rng = np.random.default_rng(seed)
    rows = np.column_stack([np.arange(count), rng.integers(count, size=(count, samples))])
    pairs = [(a, b) for a in range(repeats) for b in range(a)]
    drawn = repeated[rows]  # [subsets, 1 + samples, seeds]
    agreement = np.stack([spearman(drawn[..., a], drawn[..., b]) for a, b in pairs])
    single = agreement.mean(axis=0).clip(min=0)  # NaN where a resample has one subset alone
    reliability = seeds * single / (1 + (seeds - 1) * single)
    low, high = percentile_interval(np.sqrt(reliability[1:]), confidence)
    return {
        "single": float(single[0]),
        "reliability": float(reliability[0]),
        "ceiling": float(np.sqrt(reliability[0])),
        "low": low,
        "high": high,
        "subsets": count,
        "repeats": repeats,
    }
