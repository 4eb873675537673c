"""Verdicts on the paper's claims, by one rule that is older than the results.

An effect is *reproduced* where its interval lies wholly on the side that the paper
reports, *not reproduced* where it lies wholly on the other side, and *undecided* where it
holds zero. An effect without an experiment is *not measured*. Nothing else enters.

Arms that the paper does not report have effects on a side that its claims imply, by our inference; they
stand where a study has the arms.
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
    """Return one row per test of a claim, and per implied effect that was measured, with a verdict.

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
    rows = []
    for claim in load_paper()["claims"]:
        inferred = [{"reported": IMPLIED, "mark": "I", **test} for test in claim.get("implied", [])]
        for test in [*claim["tests"], *inferred]:
            found = _measurement(test, measured)
            if test in inferred and found["verdict"] == "not measured":
                continue
            mark = test.get("mark") or claim.get("mark")
            row = {
                "claim": claim["id"],
                "title": claim["title"],
                "test": test["id"],
                "says": test["says"],
                "domain": test.get("target", test["domain"]),
                "direction": test["direction"],
                "reported": test.get("reported", ""),
                "mark": mark or "",
                "mark_says": mark_says(mark),
            }
            rows.append(row | found)
    return pd.DataFrame(rows)


def with_implied(claims: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """Return a record's claims with the implied effects of its arms, which may be younger than the record.

    Parameters
    ----------
    claims
        As :func:`measure_claims` gave them.
    arms
        Differences between the record's arms, as :func:`measure_claims` takes them.
    """
    found = measure_claims({"arms": arms})
    younger = found[~found["test"].isin(claims["test"])]
    return pd.concat([claims, younger]).sort_values("test", ignore_index=True)


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
