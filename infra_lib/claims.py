"""Verdicts on the paper's claims, by one rule that is older than the results.

An effect is *reproduced* where its interval lies wholly on the side that the paper
reports, *not reproduced* where it lies wholly on the other side, and *undecided* where it
holds zero. An effect without an experiment is *not measured*. Nothing else enters.

Arms that the paper does not report are judged by the same rule, on the side that its claims imply by our
inference, in a table of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from infra_lib.paper import load_paper, mark_says
from infra_lib.tables import VERDICTS


def verdict(low: float, high: float, direction: str) -> str:
    """Return the verdict on an effect whose reported direction is ``up`` or ``down``."""
    if low <= 0 <= high:
        return "undecided"
    return "reproduced" if (low > 0) == (direction == "up") else "not reproduced"


def count_verdicts(rows: pd.DataFrame) -> dict[str, int]:
    """Return how many effects have each verdict, those without any included, in the order of tables."""
    return {name: int((rows["verdict"] == name).sum()) for name in VERDICTS}


def measure_claims(measured: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one row per test of a claim: reported beside measured, with a verdict.

    Parameters
    ----------
    measured
        ``influence`` (hard minus easy: target, domain, difference, low, high), ``arms`` (arm_a, arm_b,
        domain, difference, …), ``transfer`` (target, domain, mean, …), ``category`` (symbolic minus
        conversational: target, domain, difference, …), ``sentences`` (target, domain, kind, difference, …)
        and ``tokens`` (target, domain, class, reading, difference, …).

    Returns
    -------
    pandas.DataFrame
        claim, title, test, says, domain, direction, reported, mark, mark_says, mean, low, high, unit,
        digits, runs, n, verdict.
    """
    return pd.DataFrame(
        [_row(claim, test, measured) for claim in load_paper()["claims"] for test in claim["tests"]]
    )


def measure_implied(arms: pd.DataFrame) -> pd.DataFrame:
    """Return one row per effect that a claim implies for arms which the paper does not report.

    An effect whose arms a study does not have is left out.

    Parameters
    ----------
    arms
        Differences between arms, as :func:`measure_claims` takes them.

    Returns
    -------
    pandas.DataFrame
        As :func:`measure_claims`; ``reported`` is :data:`IMPLIED`, and the mark that of our inference.
    """
    rows = [
        _row(claim, {**test, "reported": IMPLIED, "mark": "I"}, {"arms": arms})
        for claim in load_paper()["claims"]
        for test in claim.get("implied", [])
    ]
    found = pd.DataFrame(rows)
    return found[found["verdict"] != "not measured"].reset_index(drop=True)


def _row(
    claim: Mapping[str, Any], test: Mapping[str, Any], measured: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    mark = test.get("mark") or claim.get("mark")
    return {
        "claim": claim["id"],
        "title": claim["title"],
        "test": test["id"],
        "says": test["says"],
        "domain": test.get("target", test["domain"]),
        "direction": test["direction"],
        "reported": test.get("reported", ""),
        "mark": mark or "",
        "mark_says": mark_says(mark),
        **_measurement(test, measured),
    }


IMPLIED = "not reported; implied by the claim"
"""What stands for a number of the paper where the side is our inference."""

_KEYS = {
    "arms": ("arm_a", "arm_b", "domain"),
    "sentences": ("target", "domain", "kind"),
    "tokens": ("target", "domain", "class", "reading"),
}
"""Columns that find a test's row among the measurements of its effect."""

_UNITS = {"arms": "accuracy", "sentences": "sd of sentences", "tokens": "sd of tokens"}
"""Units of effects; those of examples are in standard deviations of examples (``sd``)."""


def _measurement(test: Mapping[str, Any], measured: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    frame = measured.get(test["effect"])
    keys = _KEYS.get(test["effect"], ("target", "domain"))
    found = pd.DataFrame() if frame is None else frame
    for key in keys if not found.empty else ():
        found = found[found[key] == test[key]]
    if found.empty:
        nothing = {"mean": None, "low": None, "high": None, "unit": "", "digits": 0, "runs": 0, "n": 0}
        return nothing | {"verdict": "not measured"}
    row = found.iloc[0]
    arms = test["effect"] == "arms"
    counts = [int(row[name]) for name in found.columns if name == "n" or name.startswith("n_")]
    return {
        "mean": float(row["mean"] if "mean" in found.columns else row["difference"]),
        "low": float(row["low"]),
        "high": float(row["high"]),
        "unit": _UNITS.get(test["effect"], "sd"),
        "digits": 3 if arms else 2,
        "runs": int(row["runs"]),
        "n": sum(counts),
        "verdict": verdict(row["low"], row["high"], test["direction"]),
    }
