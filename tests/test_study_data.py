"""The splits of a study from any source: shares, disjoint questions, difficulty, and bad input."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest

from infra_lib.errors import DataError, ParameterError
from infra_lib.examples import Example, write_jsonl
from infra_lib.reweight.study_arms import study_arm
from infra_lib.study import load_study, make_study
from infra_lib.study_data import (
    by_length,
    check_sources,
    choose,
    exams_of,
    load_splits,
    sources_of,
    without_overlap,
)

SIZES = {"train_examples": 20, "swap_pool_examples": 20, "target_examples": 20, "test_examples": 20}


def example(number: int, domain: str = "math", **values) -> Example:
    return Example(f"{domain}-{number}", domain, f"question {domain} {number}", "x" * (number + 1), **values)


def study(**values):
    return make_study(SIZES | values)


def test_the_small_world_comes_as_before(root) -> None:
    data = load_splits(study(), root)
    assert {name: len(rows) for name, rows in data.splits.items()} == dict.fromkeys(data.splits, 20)
    assert data.reports == []


@pytest.mark.parametrize("name", ["smoke", "small"])
def test_a_shipped_study_has_all_it_asks_for_and_its_pool_suffices_for_its_arms(root, name) -> None:
    shipped = load_study(root / "notebooks" / "studies", name)
    data = load_splits(shipped, root)
    assert {split: len(rows) for split, rows in data.splits.items()} == {
        split: getattr(shipped, f"{split}_examples") for split in data.splits
    }
    for name in shipped.arms:
        built = study_arm(
            name, shipped, data.splits["train"], data.splits["swap_pool"], tokenized=lambda _: {}
        )
        assert len(built.examples) == shipped.train_examples


def test_files_generated_worlds_and_catalog_mix_in_equal_shares(root, tmp_path) -> None:
    rows = [example(i, domain, answer="1") for i in range(40) for domain in ("math", "code")]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    pytest.importorskip("reasoning_gym")
    mixed = study(
        train_sources=[str(tmp_path / "mine.jsonl"), "small_world"],
        target_sources=["gsm_symbolic"],
        test_sources=["small_world", "gsm_symbolic"],
    )
    data = load_splits(mixed, root)
    kinds = [ex.id.split("/")[0].split("-")[0] for ex in data.splits["train"]]
    assert kinds.count("train") == 10
    assert len(kinds) == 20
    assert all(ex.id.startswith("gsm_symbolic/") and ex.answer for ex in data.splits["target"])
    assert sum(ex.id.startswith("gsm_symbolic/") for ex in data.splits["test"]) == 10
    assert {report["split"] for report in data.reports} >= {"train", "target", "test"}


def test_a_question_of_the_exam_is_taken_out_of_what_is_trained_on() -> None:
    shared = example(1)
    splits = {
        "train": [shared, example(2), replace(example(3), prompt="Question  MATH 1")],
        "swap_pool": [example(2), example(4), example(4)],
        "target": [],
        "test": [replace(shared, id="t")],
    }
    found, removed = without_overlap(splits)
    assert [ex.id for ex in found["train"]] == ["math-2"]
    assert [ex.id for ex in found["swap_pool"]] == ["math-4"]
    assert removed == {"train": 2, "swap_pool": 2}


def test_a_choice_keeps_domains_in_their_shares_and_depends_on_the_seed_alone() -> None:
    rows = [example(i) for i in range(60)] + [example(i, "code") for i in range(20)]
    chosen = choose(rows, 40, seed=1)
    assert sum(ex.domain == "math" for ex in chosen) == 30
    assert chosen == choose(rows, 40, seed=1) != choose(rows, 40, seed=2)
    assert choose(rows, 500, seed=1) == rows


def test_difficulty_by_length_makes_fifths_within_a_domain() -> None:
    train = [example(i) for i in range(50)] + [example(i + 500, "code") for i in range(50)]
    graded, pool = by_length(train, [example(900), example(1, "other")])
    for domain in ("math", "code"):
        levels = [ex.difficulty for ex in graded if ex.domain == domain]
        assert levels == sorted(levels)
        assert [levels.count(level) for level in range(1, 6)] == [10] * 5
    assert [ex.difficulty for ex in pool] == [5]


def contest(options):
    return {"test_sources": ["livecodebench"], "data_options": {"livecodebench": options}}


def test_a_study_names_release_and_window_of_livecodebench(root) -> None:
    window = {"start_date": "2024-01-01", "end_date": "2024-12-31", "levels": ["medium"]}
    ids = {}
    for name, options in (("all", {"release": "v1"}), ("window", {"release": "v1", **window})):
        asked = study(
            test_sources=["livecodebench"],
            data_folder="tests/fixtures",
            data_options={"livecodebench": options},
        )
        ids[name] = [example.id for example in load_splits(asked, root).splits["test"]]
    assert ids["window"] != ids["all"]
    assert set(ids["window"]) < set(ids["all"])
    assert set(exams_of(ids["all"], ["livecodebench"])) == {"livecodebench"}


def test_rows_that_cannot_be_used_end_a_study_unless_it_leaves_them_out(root, tmp_path) -> None:
    shutil.copytree(root / "tests" / "fixtures" / "gsm8k", tmp_path / "gsm8k")
    path = next(tmp_path.rglob("test.jsonl"))
    path.write_text(path.read_text(encoding="utf-8") + '{"question": "?", "answer": "none"}\n')
    given = {"test_sources": ["gsm8k"], "data_folder": str(tmp_path)}
    with pytest.raises(DataError, match=r"cannot be parsed: .*; mend the row, or .*\(skip_bad\)"):
        load_splits(study(**given), root)
    skipping = study(**given, data_options={"gsm8k": {"skip_bad": True}})
    check_sources(skipping, root)
    reports = load_splits(skipping, root).reports
    bad = next(report["bad"] for report in reports if report["name"] == "gsm8k")
    assert len(bad) == 1
    assert "cannot be parsed" in bad[0]
    with pytest.raises(
        ParameterError, match="data_options, gsm8k, skip_bad is 'yes': it must be true or false"
    ):
        check_sources(study(**given, data_options={"gsm8k": {"skip_bad": "yes"}}), root)


def test_the_papers_study_pins_whole_commits_of_its_data(root) -> None:
    paper = load_study(root / "notebooks" / "studies", "paper")
    check_sources(paper, root)
    used = {name for names in sources_of(paper).values() for name in names}
    # No pin of OpenThoughts was found; the study's file says so.
    assert set(paper.data_revisions) == used - {"open_thoughts"}
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in paper.data_revisions.values())


def test_a_date_in_a_study_file_is_a_date(tmp_path) -> None:
    (tmp_path / "t.yaml").write_text(
        "study: t\ntest_sources: [livecodebench]\n"
        "data_options: {livecodebench: {start_date: 2024-08-01, levels: [hard]}}\n"
    )
    found = load_study(tmp_path, "t").data_options
    assert found == {"livecodebench": {"start_date": "2024-08-01", "levels": ["hard"]}}


def test_problems_know_their_exam() -> None:
    ids = ["aime24/2024-I-1", "math500/3", "test-math-1-0000", "own/1"]
    sources = ["aime24", "small_world", "math500", "own.jsonl"]
    assert exams_of(ids, sources) == ["aime24", "math500", "small_world, own.jsonl", "small_world, own.jsonl"]


@pytest.mark.reliability(kind="bad input", title="a source of examples that cannot be")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_sources": ["bespoke_strato"]}, "'bespoke_stratos' (did you mean that?)"),
        ({"pool_sources": ["none.jsonl"]}, "parameter pool_sources is 'none.jsonl'"),
        ({"test_sources": ["bespoke_stratos"]}, "a benchmark, which has answers to grade by"),
        ({"data_folder": "no/such"}, "parameter data_folder is 'no/such'"),
        ({"data_options": {"gsm8k": {}}}, "among the sources: none is"),
        (contest({"release": "v9"}), "parameter data_options, livecodebench, release is 'v9'"),
        (contest({"release": ["v5"]}), "parameter data_options, livecodebench, release is ['v5']"),
        (contest({"release": ""}), "parameter data_options, livecodebench, release is ''"),
        (
            {"train_sources": ["open_thoughts"], "data_options": {"open_thoughts": {"domains": "math"}}},
            "a list, such as [math]",
        ),
        (contest({"start_date": "May"}), "parameter data_options, livecodebench, start_date is 'May'"),
        (contest({"start": "2024-08-01"}), "options of livecodebench are release, start_date"),
        (
            {"train_sources": ["gsm_symbolic"], "data_options": {"gsm_symbolic": {"seed": "1"}}},
            "the study's own sizes and seed count",
        ),
        ({"data_revisions": {"gsm8": "main"}}, "parameter data_revisions is 'gsm8'"),
        ({"data_revisions": {"gsm_symbolic": "main"}}, "parameter data_revisions is 'gsm_symbolic'"),
    ],
)
def test_bad_sources_are_named_before_anything_is_loaded(root, change, words) -> None:
    with pytest.raises(ParameterError) as caught:
        check_sources(study(**change), root)
    assert words in str(caught.value)


@pytest.mark.reliability(kind="bad input", title="a data folder without the data set")
def test_a_missing_subfolder_is_named(root, tmp_path) -> None:
    with pytest.raises(DataError, match="needs a subfolder gsm8k"):
        load_splits(study(target_sources=["gsm8k"], data_folder=str(tmp_path)), root)


@pytest.mark.reliability(kind="bad input", title="parameters of a study that contradict each other")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": 4}, "parameter samples is 4"),
        ({"base_model": "a/b"}, "parameter base_seeds is [0, 1]"),
    ],
)
def test_contradictions_are_named(change, words) -> None:
    with pytest.raises(ParameterError) as caught:
        study(**change)
    assert words in str(caught.value)
