"""The generated world keeps its promises: right answers, disjoint splits, lossless text, determinism."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter

import pytest

from infra_lib.errors import ParameterError
from infra_lib.examples import check_disjoint
from infra_lib.sources.small_world import SHARES, SplitSizes, make_splits, split_of
from infra_lib.sources.small_world.code_tasks import Step, Task, draw_task
from infra_lib.sources.small_world.math_stories import draw_story
from infra_lib.sources.small_world.operations import PHRASES, Operation, draw_operation
from infra_lib.sources.small_world.pretraining import pretraining_documents


@pytest.fixture(scope="module")
def exploring():
    sizes = SplitSizes(train=300, swap_pool=0, target=0, test=0)
    return make_splits(sizes, seed=3, exploratory_fraction=1.0, mend_fraction=0.5).train


def test_reference_programs_pass_their_hidden_tests(splits) -> None:
    for example in splits.train + splits.test:
        if example.domain == "code":
            program = re.search(r"```python\n(.*)```", example.response, re.DOTALL).group(1)
            scope: dict = {}
            exec(program, scope)
            for case in json.loads(example.tests):
                assert scope["f"](*case["args"]) == case["expected"]


def test_expression_apply_and_working_agree() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        op, x = draw_operation(rng), rng.randint(0, 99)
        assert eval(op.expression("x"), {"x": x}) == op.apply(x)
        left, right = op.working(x).rsplit(" = ", 1)
        assert eval(left.split(" and ")[-1]) == int(right) == op.apply(x)


def test_every_phrase_is_reached_and_names_its_numbers() -> None:
    rng = random.Random(1)
    for name, phrases in PHRASES.items():
        numbers = {"branch": (40, 3, 5)}.get(name, (7,))
        seen = {Operation(name, numbers).phrase(rng) for _ in range(60)}
        assert len(seen) == len(phrases)
        assert all("{" not in text for text in seen)


def test_stated_answer_is_the_last_value_and_the_answer(splits) -> None:
    for example in splits.train:
        if example.domain == "math":
            assert example.response.endswith(f"answer is {example.answer}.")


def test_every_worked_step_that_stands_is_true(exploring) -> None:
    """Each equation holds, except that of a step that the next sentence mends."""
    wrong = 0
    for example in (e for e in exploring if e.domain == "math"):
        for sentence, following in zip(example.sentences, [*example.sentences[1:], None], strict=True):
            text = example.response[sentence.start : sentence.end]
            for left, right in re.findall(r"(?:so|and|wrong:|check:|again:) ([^,=]*) = (-?\d+)", text):
                if eval(left.split(" and ")[-1]) != int(right):
                    assert following is not None
                    assert following.kind == "mend"
                    wrong += 1
    assert wrong > 20


def test_exploration_comes_in_its_kinds_and_its_fraction_is_settable(exploring) -> None:
    kinds = Counter(s.kind for e in exploring for s in e.sentences)
    assert min(kinds["check"], kinds["alternative"], kinds["mend"]) > 20
    sizes = SplitSizes(train=100, swap_pool=0, target=0, test=0)
    none = make_splits(sizes, seed=3, exploratory_fraction=0.0).train
    assert not {"check", "alternative", "mend"} & {s.kind for e in none for s in e.sentences}


def test_sentences_cover_the_response_without_overlap(exploring) -> None:
    for example in exploring:
        spans = [(s.start, s.end) for s in example.sentences]
        assert spans[0][0] == 0
        assert spans[-1][1] == len(example.response)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))


def test_difficulty_is_the_number_of_steps(splits) -> None:
    for example in splits.train:
        assert sum(s.kind == "step" for s in example.sentences) == example.difficulty


def test_both_categories_of_mathematics_occur_and_their_share_is_settable() -> None:
    sizes = SplitSizes(train=200, swap_pool=0, target=0, test=0)
    for fraction in (0.0, 0.5, 1.0):
        examples = make_splits(sizes, seed=0, conversational_fraction=fraction).train
        math = [e for e in examples if e.domain == "math"]
        share = sum(e.category == "conversational" for e in math) / len(math)
        assert share == fraction if fraction in (0, 1) else 0.3 < share < 0.7


def test_splits_of_any_seeds_share_no_question() -> None:
    sizes = SplitSizes(train=100, swap_pool=100, target=60, test=60)
    first, second = make_splits(sizes, seed=0), make_splits(sizes, seed=1)
    check_disjoint(train=first.train, swap=second.swap_pool, target=first.target, test=second.test)


def test_levels_and_domains_are_in_equal_parts(splits) -> None:
    counts = Counter((e.domain, e.difficulty) for e in splits.train)
    assert len(counts) == 10
    assert set(counts.values()) == {4}


def test_no_split_asks_a_question_twice_not_even_at_two_levels() -> None:
    world = make_splits(SplitSizes(train=600, swap_pool=0, target=0, test=300), seed=0)
    for rows in (world.train, world.test):
        assert len({ex.question for ex in rows}) == len(rows)


def test_one_splits_size_changes_nothing_in_another(splits) -> None:
    other = make_splits(SplitSizes(train=60, swap_pool=0, target=0, test=20), seed=0)
    assert other.test == splits.test


def test_questions_held_out_are_never_in_pretraining() -> None:
    documents = list(pretraining_documents(20_000, seed=5, count_tokens=lambda text: len(text) // 3))
    test = make_splits(SplitSizes(0, 0, 0, 500), seed=0).test
    prompts = {example.prompt for example in test}
    assert not any(prompt in document for document in documents for prompt in prompts)


def test_two_tasks_with_one_behaviour_are_one_question() -> None:
    add3, add4 = (Step("map", "add", operation=Operation("add", (n,))) for n in (3, 4))
    add7 = Step("map", "add", operation=Operation("add", (7,)))
    assert Task((add3, add4), "sum").question == Task((add4, add3), "sum").question
    assert Task((add7,), "sum").question == Task((add3, add4), "sum").question
    assert Task((add7,), "sum").question != Task((add7,), "max").question


def test_same_seed_same_world_whatever_the_hash_seed() -> None:
    script = (
        "from infra_lib.sources.small_world import *; from infra_lib.examples import to_frame;"
        "import hashlib;"
        "s=make_splits(SplitSizes(20,20,20,20),seed=9);"
        "print(hashlib.sha256(to_frame(s.train+s.test).to_json().encode()).hexdigest(),"
        "hashlib.sha256(train_tokenizer().backend_tokenizer.to_str().encode()).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_tokenizer_loses_nothing_and_knows_every_token(tokenizer, splits, exploring) -> None:
    texts = [e.prompt + e.response for e in splits.train + splits.swap_pool + splits.test + exploring]
    texts += list(pretraining_documents(5_000, seed=1, count_tokens=lambda text: len(text) // 3))
    for text in texts:
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_drawn_questions_have_an_effect_at_every_step() -> None:
    rng = random.Random(7)
    for _ in range(30):
        story = draw_story(rng, 4)
        assert all(a != b for a, b in zip(story.values, story.values[1:], strict=False))
        assert all(0 <= value <= 99 for value in story.values)
        assert len({str(draw_task(rng, 2).run(list(range(k, k + 6)))) for k in range(20)}) > 0


def test_shares_are_a_partition() -> None:
    counts = Counter(split_of(f"question {i}") for i in range(20_000))
    for name, share in SHARES.items():
        assert counts[name] / 20_000 == pytest.approx(share, abs=0.015)


@pytest.mark.reliability(kind="bad input", title="a small world that cannot be made")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"difficulties": [0, 1]}, "difficulties"),
        ({"difficulties": [6]}, "difficulties"),
        ({"difficulties": []}, "difficulties"),
        ({"exploratory_fraction": 1.5}, "exploratory_fraction"),
        ({"mend_fraction": -0.1}, "mend_fraction"),
        ({"conversational_fraction": float("nan")}, "conversational_fraction"),
    ],
)
def test_bad_input_is_named(change: dict, named: str) -> None:
    with pytest.raises(ParameterError, match=named):
        make_splits(SplitSizes(10, 10, 10, 10), seed=0, **change)


@pytest.mark.reliability(kind="bad input", title="more problems of a level than there are")
def test_a_level_that_runs_out_says_how_many_there_are(monkeypatch) -> None:
    from infra_lib.sources.small_world import splits as module

    monkeypatch.setattr(module, "_MISSES", 300)
    with pytest.raises(ParameterError, match=r"at most \d+ for that level"):
        make_splits(SplitSizes(0, 0, 0, 4000), seed=0, difficulties=[1])
