"""Means of kinds: exact on made-up scores, paired with all others, resampled by whole examples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from infra_lib.errors import NumericalError
from infra_lib.examples import Example
from infra_lib.kinds import influence
from infra_lib.models import Encoded
from infra_lib.statistics import crossed_bootstrap, crossed_ratios

TEXT = "Wait, 3. So 4."
PIECES = ("Wait", ",", " 3", ".", " So", " 4", ".", "")


def encoded(name: str) -> Encoded:
    offsets, at = [], 0
    for piece in PIECES:
        offsets.append((at, at + len(piece)))
        at += len(piece)
    size = len(PIECES)
    return Encoded(
        name, torch.zeros(size, dtype=torch.long), torch.ones(size, dtype=torch.bool), tuple(offsets)
    )


@pytest.fixture
def train() -> list[Example]:
    return [Example(name, "math", "p", TEXT) for name in "abcd"]


@pytest.fixture
def scores(train) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return {target: [rng.normal(size=len(PIECES)) for _ in train] for target in ("math", "code")}


def test_sums_of_classes_add_up_to_the_example(train, scores) -> None:
    classes = influence.classes_of(train, [encoded(ex.id) for ex in train])
    sums = influence.token_sums(train, classes, scores)
    deviation = np.concatenate(scores["math"]).std(ddof=1)
    own = sums[sums["target"] == "math"].groupby("id")[["total", "count"]].sum()
    assert own["total"].to_numpy() == pytest.approx([row.sum() / deviation for row in scores["math"]])
    assert set(own["count"]) == {len(PIECES)}
    wait = sums.query("target == 'math' and id == 'a'").set_index("class")
    assert wait.loc["logic connector", "total"] == pytest.approx(scores["math"][0][[0, 4]].sum() / deviation)
    assert wait.loc["end", "count"] == 1


def test_sums_of_sentences_are_those_of_their_tokens(train, scores) -> None:
    sums = influence.sentence_sums(train, [encoded(ex.id) for ex in train], scores)
    values = [np.array([row[:4].sum(), row[4:].sum()]) for row in scores["code"]]
    deviation = np.concatenate(values).std(ddof=1)
    found = sums.query("target == 'code'").set_index(["id", "kind"])["total"]
    assert found["c", "check"] == pytest.approx(values[2][0] / deviation)
    assert found["c", "step"] == pytest.approx(values[2][1] / deviation)


def test_a_sentence_that_was_cut_off_does_not_count(train) -> None:
    rows = [encoded(ex.id) for ex in train]
    cut = [Encoded(r.id, r.input_ids[:3], r.loss_mask[:3], r.offsets[:3], truncated=5) for r in rows]
    rng = np.random.default_rng(0)
    sums = influence.sentence_sums(train, cut, {"math": [rng.normal(size=3) for _ in train]})
    assert set(sums["kind"]) == {"check"}


@pytest.mark.reliability(kind="bad input", title="scores that are all equal, to rank kinds by")
def test_equal_scores_cannot_be_ranked(train) -> None:
    same = {"math": [np.ones(len(PIECES)) for _ in train]}
    with pytest.raises(NumericalError, match="all scores on math are equal"):
        influence.token_sums(train, influence.classes_of(train, [encoded(ex.id) for ex in train]), same)


def sums(models: int = 3, examples: int = 40, effect: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = []
    for base in range(models):
        for k in range(examples):
            for kind in ("check", "step"):
                if kind == "check" and k % 4:
                    continue
                count = 1 if kind == "check" else 3
                total = rng.normal(effect * (kind == "check"), 0.1, count).sum()
                rows.append((base, "math", f"e{k}", "math", kind, total, count))
    return pd.DataFrame(rows, columns=["base_seed", "target", "id", "domain", "kind", "total", "count"])


def test_means_are_per_piece_and_differences_from_all_others() -> None:
    frame = sums()
    found = influence.means(frame, "kind", samples=400).set_index("kind")
    for kind, rows in frame.groupby("kind"):
        others = frame[frame["kind"] != kind]
        mean = rows["total"].sum() / rows["count"].sum()
        assert found.loc[kind, "mean"] == pytest.approx(mean)
        apart = mean - others["total"].sum() / others["count"].sum()
        assert found.loc[kind, "difference"] == pytest.approx(apart)
        assert found.loc[kind, "low"] < mean < found.loc[kind, "high"]
    assert found.loc["check", ["runs", "n", "pieces"]].tolist() == [3, 10, 10]
    assert found.loc["step", ["n", "pieces"]].tolist() == [40, 120]
    assert found.loc["check", "difference_low"] > 0.8
    effects = influence.from_others(found.reset_index()).set_index("kind")
    assert effects.loc["check", "low"] == found.loc["check", "difference_low"]


def test_a_kind_without_others_has_no_difference() -> None:
    frame = sums()
    found = influence.means(frame[frame["kind"] == "step"], "kind", samples=100)
    assert np.isnan(found.loc[0, "difference"])
    assert np.isfinite(found.loc[0, ["mean", "low", "high"]].astype(float)).all()


def test_an_interval_covers_as_often_as_it_says() -> None:
    hits = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        # Pieces of an example share its mean, so that pieces alone would give too narrow an interval.
        rows = [
            (0, "math", f"e{k}", "math", "step", float((rng.normal() + rng.normal(0, 0.1, n)).sum()), n)
            for k in range(60)
            for n in [int(rng.integers(1, 9))]
        ]
        frame = pd.DataFrame(rows, columns=["base_seed", "target", "id", "domain", "kind", "total", "count"])
        found = influence.means(frame, "kind", samples=200, confidence=0.9, seed=trial).loc[0]
        hits += bool(found["low"] <= 0 <= found["high"])
    assert 160 <= hits <= 195


def test_exploratory_kinds_are_one() -> None:
    frame = pd.concat([sums(), sums().assign(kind="alternative")])
    found = influence.exploratory(frame)
    assert set(found["kind"]) == {"exploratory", "step"}
    assert found["total"].sum() == pytest.approx(frame["total"].sum())
    assert not found.duplicated(["base_seed", "id", "kind"]).any()
    means = influence.means(found, "kind", samples=200).set_index("kind")
    own = found.groupby("kind")[["total", "count"]].sum()
    assert list(means.index) == ["step", "exploratory"]
    ratio = own["total"] / own["count"]
    assert means.loc["exploratory", "difference"] == pytest.approx(ratio["exploratory"] - ratio["step"])


def test_ratios_with_equal_counts_are_the_crossed_bootstrap() -> None:
    table = np.random.default_rng(2).normal(size=(3, 12))
    point, draws = crossed_ratios(table[:, None], np.ones((3, 1, 12)), samples=200, seed=4)
    interval, means = crossed_bootstrap(table, samples=200, seed=4)
    assert point[0] == pytest.approx(interval.mean)
    np.testing.assert_allclose(draws[:, 0], means)


def test_top_tokens_are_means_over_models_and_leave_rare_ones_out(train, scores) -> None:
    rows = [encoded(ex.id) for ex in train]
    classes = influence.classes_of(train, rows)
    texts = pd.concat(
        influence.token_texts(train, rows, classes, scores).assign(base_seed=base, reading="loss")
        for base in (0, 1)
    )
    found = influence.top_tokens(texts, least=8)
    assert set(found["token"]) == {"."}, "the only text that occurs twice in each of four examples"
    deviation = np.concatenate(scores["math"]).std(ddof=1)
    mean = np.mean([row[[3, 6]] for row in scores["math"]]) / deviation
    assert found.query("target == 'math'")["mean"].item() == pytest.approx(mean)
    assert "(end)" in set(influence.top_tokens(texts, least=1)["token"])
