"""``infra reweight``: files that ``infra finetune`` reads, weights by influence, errors before it writes."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import pandas as pd
import pytest

from infra_lib import cli
from infra_lib.errors import DataError, NumericalError, ParameterError
from infra_lib.examples import Example, read_jsonl, write_jsonl
from infra_lib.finetune.command import read_weights
from infra_lib.reweight import build_arm, guided_arm
from infra_lib.reweight.command import ReweightOptions, reweight_files


def make(split: str, per_level: int) -> list[Example]:
    return [
        Example(
            id=f"{split}-{domain}-{level}-{i}",
            domain=domain,
            prompt=f"{split} {domain} {level} {i}?",
            response="x " * (10 * level + i % 3) + "é",
            difficulty=level,
            category="story",
        )
        for domain in ("math", "code")
        for level in range(1, 6)
        for i in range(per_level)
    ]


TRAIN, POOL = make("train", 4), make("pool", 12)


@pytest.fixture
def files(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", TRAIN)
    write_jsonl(tmp_path / "pool.jsonl", POOL)
    return ReweightOptions(
        train=tmp_path / "train.jsonl", pool=tmp_path / "pool.jsonl", out=tmp_path / "arm.jsonl"
    )


def write_scores(folder, score, targets=("math", "code")):
    rows = [
        {"id": example.id, "target": target, "score": score(example, target)}
        for target in targets
        for example in TRAIN
    ]
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / "examples.parquet")
    return folder


def test_the_file_is_the_arm_that_the_library_builds_and_finetune_reads_it(files) -> None:
    table = reweight_files(files)
    arm = build_arm("flip", TRAIN, POOL)
    assert tuple(read_jsonl(files.out)) == arm.examples
    assert read_weights(files.out, read_jsonl(files.out), None) == list(arm.weights)
    assert table["examples"].sum() == len(TRAIN)
    assert "tokens" not in table


def test_weights_of_an_arm_that_keeps_every_example(files) -> None:
    reweight_files(replace(files, pool=None, mode="weight", ratio=9.0))
    assert read_jsonl(files.out) == TRAIN
    expected = build_arm("flip", TRAIN, mode="weight", ratio=9.0).weights
    assert read_weights(files.out, TRAIN, None) == pytest.approx(expected)


def test_matched_tokens_are_those_of_the_named_model(files, tokenizer, tmp_path) -> None:
    tokenizer.save_pretrained(tmp_path / "model")
    table = reweight_files(replace(files, match="tokens", tokenizer=str(tmp_path / "model")))
    count = {ex.id: len(tokenizer(ex.response, add_special_tokens=False).input_ids) for ex in TRAIN}
    for domain in ("math", "code"):
        budget = sum(count[ex.id] for ex in TRAIN if ex.domain == domain)
        longest = max(count.values())
        spent = table[table["domain"] == domain]["tokens"].sum()
        assert budget - longest <= spent <= budget


def test_influence_gives_weights_in_the_order_of_scores_with_mean_one_in_each_domain(files, tmp_path) -> None:
    folder = write_scores(tmp_path / "scores", lambda ex, target: (ex.difficulty or 0) + (target == "code"))
    reweight_files(replace(files, pool=None, arm="influence", scores=folder, strength=0.5))
    weights = read_weights(files.out, TRAIN, None)
    assert weights is not None
    for domain in ("math", "code"):
        own = [(ex.difficulty, w) for ex, w in zip(TRAIN, weights, strict=True) if ex.domain == domain]
        assert sum(w for _, w in own) / len(own) == pytest.approx(1)
        assert [w for _, w in own] == sorted(w for _, w in own)
        by = dict(own)
        # Levels 1 to 5 have standard deviation √2, so that one level is 1/√2 of it.
        assert by[3] / by[2] == pytest.approx(math.exp(0.5 / math.sqrt(2)))


def test_only_the_named_target_counts(files, tmp_path) -> None:
    folder = write_scores(
        tmp_path / "scores", lambda ex, target: (1 if target == "math" else -1) * (ex.difficulty or 0)
    )
    options = replace(files, pool=None, arm="influence", scores=folder, overwrite=True)
    reweight_files(replace(options, targets=("math",)))
    math_weights = read_weights(files.out, TRAIN, None)
    reweight_files(replace(options, targets=("code",)))
    code_weights = read_weights(files.out, TRAIN, None)
    assert math_weights != code_weights
    reweight_files(options)
    assert read_weights(files.out, TRAIN, None) == pytest.approx([1.0] * len(TRAIN))


def test_one_outlier_does_not_take_the_whole_weight() -> None:
    scores = {example.id: 0.0 for example in TRAIN}
    scores[TRAIN[0].id] = 1e9
    arm = guided_arm(TRAIN, {"math": scores}, strength=1.0)
    assert max(arm.weights) / min(arm.weights) <= math.exp(6)
    assert guided_arm(TRAIN, {"math": scores}, strength=0.0).weights == (1.0,) * len(TRAIN)


@pytest.mark.reliability(kind="bad input", title="infra reweight with options that do not fit")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": "flop"}, "--arm is 'flop'.*influence"),
        ({"arm": "influence"}, "--scores"),
        ({"match": "tokens"}, "--tokenizer"),
        ({"mode": "weight", "match": "tokens"}, "--match"),
        ({"mode": "drop"}, "mode"),
        ({"swap_fraction": 2.0}, "swap_fraction"),
    ],
)
def test_options_that_do_not_fit_are_named_and_nothing_is_written(files, change, message) -> None:
    with pytest.raises(ParameterError, match=message):
        reweight_files(replace(files, **change))
    assert not files.out.exists()


@pytest.mark.reliability(kind="bad input", title="infra reweight with files that do not fit")
def test_files_that_do_not_fit_are_named(files, tmp_path) -> None:
    bare = tmp_path / "bare.jsonl"
    write_jsonl(bare, [replace(TRAIN[0], difficulty=None), *TRAIN[1:]])
    with pytest.raises(
        DataError, match=r"bare.jsonl.*1 examples without difficulty, such as 'train-math-1-0'"
    ):
        reweight_files(replace(files, train=bare))
    write_jsonl(bare, [ex for ex in TRAIN if ex.domain == "math"])
    with pytest.raises(DataError, match="no example of domain 'code'"):
        reweight_files(replace(files, train=bare))
    with pytest.raises(DataError, match="shares 40 ids with --train"):
        reweight_files(replace(files, pool=files.train))
    with pytest.raises(ParameterError, match="swap_pool_examples"):
        reweight_files(replace(files, pool=None))
    guided = replace(files, pool=None, arm="influence")
    with pytest.raises(DataError, match="no such file"):
        reweight_files(replace(guided, scores=tmp_path / "absent"))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match="is no table of scores"):
        reweight_files(replace(guided, scores=tmp_path / "torn.parquet"))
    folder = write_scores(tmp_path / "scores", lambda ex, target: 1.0, targets=("math",))
    with pytest.raises(ParameterError, match=r"--target is 'code'.*math"):
        reweight_files(replace(guided, scores=folder, targets=("code",)))
    write_jsonl(bare, [*TRAIN, *POOL[:2]])
    with pytest.raises(DataError, match="no score of 2 examples"):
        reweight_files(replace(guided, train=bare, scores=folder))
    write_scores(tmp_path / "scores", lambda ex, target: float("nan"))
    with pytest.raises(NumericalError, match="not finite"):
        reweight_files(replace(guided, scores=folder))
    assert not files.out.exists()


def test_the_command_shows_the_arm_and_keeps_an_existing_file(files, monkeypatch, capsys) -> None:
    arguments = ["--train", files.train, "--pool", files.pool, "--out", files.out, "--arm", "reverse"]
    monkeypatch.setattr(sys, "argv", ["infra", "reweight", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "the arm is in" in capsys.readouterr().out
    first = [json.loads(line) for line in files.out.read_text(encoding="utf-8").splitlines()]
    assert {row["difficulty"] for row in first if row["domain"] == "math"} == {1, 2, 3}
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.reliability(kind="bad input", title="difficulties that are no levels")
@pytest.mark.parametrize("text", ["", "0,1", "1;2", "one", "1,,2", "²"])
def test_difficulties_that_are_no_levels(files, monkeypatch, capsys, text: str) -> None:
    arguments = ["--train", str(files.train), "--out", str(files.out), "--easy", text]
    monkeypatch.setattr(sys, "argv", ["infra", "reweight", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "--easy" in capsys.readouterr().err
