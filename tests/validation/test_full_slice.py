"""The recorded study `full`: its means follow from its graded answers, and one run made again agrees."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from infra_lib.experiment import Run, run_all, train_and_evaluate
from infra_lib.models import load_tokenizer
from infra_lib.reweight.study_arms import response_tokens, study_arm
from infra_lib.statistics import accuracy_by_group
from infra_lib.study import load_study
from infra_lib.study_data import load_splits
from infra_lib.validation import bench, groups
from infra_lib.validation.record import ARMS, VALIDATION, Record

ROOT = Path(__file__).resolve().parents[2]


def graded_answers(study: str) -> pd.DataFrame:
    found = Record(ROOT, study).optional(ARMS, "graded")
    assert found is not None
    return found


@pytest.mark.parametrize("study", ["full", "larger"])
def test_the_arms_of_a_record_follow_from_its_graded_answers(study) -> None:
    graded, record = graded_answers(study), Record(ROOT, study)
    for table, by in (
        ("arms", ["arm", "domain"]),
        ("accuracy_by_difficulty", ["arm", "domain", "difficulty"]),
    ):
        kept = record.table(ARMS, table)
        again = accuracy_by_group(graded, by, samples=100, confidence=0.95, seed=0)
        both = kept.merge(again, on=by, suffixes=("", "_again"), validate="1:1")
        assert len(both) == len(kept) == len(again)
        assert (both["mean"] - both["mean_again"]).abs().max() < 1e-12
        assert (both["runs"] == both["runs_again"]).all()
        assert (both["n"] == both["n_again"]).all()
    kept = record.table(ARMS, "arms").set_index(["arm", "domain"])["mean"]
    for row in record.table(ARMS, "differences").itertuples():
        difference = kept[row.arm_a, row.domain] - kept[row.arm_b, row.domain]
        assert row.difference == pytest.approx(difference, abs=1e-12)


@pytest.mark.slow
def test_one_run_of_the_recorded_study_made_again_agrees_with_the_record(tmp_path) -> None:
    """A slice: one run of the arm `flip`, trained and examined anew with the study's own settings.

    Arithmetic differs between processors in the last digits, which training can carry as far as an
    answer; the same run elsewhere is therefore asked to agree nearly everywhere and not everywhere.
    """
    study = load_study(ROOT / "notebooks" / "studies", "full")
    splits = load_splits(study, ROOT, progress=False).splits
    base = study.base_of(0, ROOT)
    tokenized = partial(response_tokens, load_tokenizer(base), max_tokens=study.max_tokens)
    arm = study_arm("flip", study, splits["train"], splits["swap_pool"], tokenized=tokenized)
    run = Run(
        arm="flip",
        base_seed=0,
        seed=0,
        base=base,
        train=arm.examples,
        weights=arm.weights,
        test=splits["test"],
        config=study.finetune_config(),
        root=tmp_path,
        sampling=study.sampling(),
        engine=study.engine,
        device=study.device,
        sandbox=study.sandbox,
    )
    now = train_and_evaluate(run).set_index("id")
    every = graded_answers("full")
    same = (every["arm"] == "flip") & (every["base_seed"] == 0) & (every["seed"] == 0)
    before = every[same].set_index("id")
    assert sorted(now.index) == sorted(before.index)
    both = now.join(before["correct"].rename("recorded"))
    assert (both["correct"] == both["recorded"]).mean() >= 0.9
    by_domain = both.groupby("domain")[["correct", "recorded"]].mean()
    assert (by_domain["correct"] - by_domain["recorded"]).abs().max() <= 0.05
    # Another seed of the arm has nearly the same grades, but answers of other lengths: the run that was
    # made again must be closer to its own record than to any other.
    lengths = every.pivot(index=["arm", "base_seed", "seed"], columns="id", values="n_tokens")
    assert len(lengths) == 120
    assert lengths.eq(now["n_tokens"]).mean(axis=1).idxmax() == ("flip", 0, 0)


@pytest.mark.slow
def test_one_group_removed_again_changes_the_targets_as_the_record_says(tmp_path) -> None:
    """A slice of the validation: models on everything, and on everything but the group that matters most.

    Another processor's arithmetic ends a little elsewhere; the change must lie in the recorded intervals, and
    nearer to this group's record than to any other's.
    """
    recorded = Record(ROOT, VALIDATION).table("09_validation", "groups").query("change == 'removed'")
    # A group is a difficulty or a category; a record from before there were categories has none.
    recorded = recorded.reindex(columns=[*recorded.columns.drop("category", errors="ignore"), "category"])
    recorded = recorded.fillna({"difficulty": 0, "category": ""})
    keys = ["domain", "difficulty", "category"]
    every = recorded.pivot(index=keys, columns="target", values="nats")
    most = every.abs().max(axis=1).idxmax()
    study = load_study(ROOT / "notebooks" / "studies", "full")
    splits = load_splits(study, ROOT, progress=False).splits
    setting = bench.open_bench(study, splits["train"], splits["target"], root=ROOT, runs=tmp_path)
    (group,) = [
        found
        for found in groups.group_runs(setting)
        if (found.domain, found.difficulty or 0, found.category or "") == most and found.change == "removed"
    ]
    answers = run_all([*setting.runs[: study.group_seeds], *group.runs], processes=1)
    targets = bench.form_targets(setting, answers[answers["arm"] == "validation"])
    tokens = study.validation_tokens
    change = (
        targets.of_models(tokens, group.runs) - targets.of_models(tokens, setting.runs[: study.group_seeds])
    ).mean(axis=0)
    now = pd.Series({target: float(change @ targets.weights(target)) for target in every.columns})
    before = recorded.set_index([*keys, "target"]).sort_index().loc[most]
    for target, nats in now.items():
        assert before.loc[target, "low"] <= nats <= before.loc[target, "high"]
        assert nats == pytest.approx(before.loc[target, "nats"], rel=0.25, abs=0.25)
    assert ((every - now) ** 2).sum(axis=1).idxmin() == most
