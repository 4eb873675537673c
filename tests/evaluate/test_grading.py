"""Graders accept what is right, refuse what only looks right, and survive hostile text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra_lib.errors import ParameterError
from infra_lib.evaluate.accuracy import evaluate, grade_all
from infra_lib.evaluate.grade_code import extract_program, grade_code, grade_many
from infra_lib.evaluate.grade_math import extract_answer, grade_math
from infra_lib.evaluate.sandbox import same
from infra_lib.examples import Example

TESTS = json.dumps([{"args": [[1, 2]], "expected": 3}, {"args": [[5]], "expected": 5}])


def block(body: str) -> str:
    return f"Plan.\n```python\n{body}\n```"


@pytest.mark.parametrize(
    ("response", "answer", "correct"),
    [
        ("Therefore the answer is 11.", "11", True),
        ("the answer is 12. Wait. So the answer is 11.", "11", True),
        ("So the answer is 11. So the answer is 12.", "11", False),
        ("So the answer is -3.", "-3", True),
        ("So the answer is -3.", "3", False),
        ("So the answer is 1,024.", "1024", True),
        ("So the answer is 011.", "11", True),
        ("So the answer is 12.5.", "12", False),
        (r"Hence \boxed{11}", "11", True),
        (r"\boxed{\frac{1}{2}}", "0.5", True),
        (r"\boxed{\frac{1}{2}}", r"\frac{2}{4}", True),
        (r"\boxed{\frac{1}{3}}", "0.5", False),
        (r"\boxed{x^{2}", "4", False),
        ("11", "11", False),
        ("", "11", False),
    ],
)
def test_mathematics_is_graded_by_its_final_answer(response, answer, correct) -> None:
    assert grade_math(response, answer).correct is correct


def test_an_answer_that_is_missing_is_no_wrong_answer() -> None:
    assert grade_math("I do not know", "1").reason == "no answer"
    assert grade_math("the answer is 2.", "1").reason == "wrong answer"


@pytest.mark.reliability(kind="fuzz", title="any text as a model's answer")
@given(st.text(max_size=200))
@settings(max_examples=150, deadline=None)
def test_no_text_crashes_the_extractors(text: str) -> None:
    extract_answer(text)
    extract_answer("\\boxed{" + text)
    extract_program("```python\n" + text)


def test_every_reference_solution_is_graded_correct(splits) -> None:
    examples = splits.train + splits.test
    grades = grade_all(examples, [example.response for example in examples], progress=False)
    assert all(grade.correct for grade in grades)


def test_a_wrong_program_is_wrong_and_a_hidden_case_decides() -> None:
    assert grade_code(block("def f(x):\n    return sum(x)"), TESTS).correct
    assert grade_code(block("def f(x):\n    return 3"), TESTS).reason == "wrong answer"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def f(x):\n    return missing", "error"),
        ("def f(x:\n", "error"),
        ("def g(x):\n    return 1", "error"),
        ("def f(x):\n    while True: pass", "timeout"),
        ("def f(x):\n    return 'a' * 10**10", "memory"),
        ("import sys\nsys.exit(0)\ndef f(x): return sum(x)", "error"),
        ("import os\nos._exit(0)", "error"),
        ("print('[3, 5]')\nimport os\nos._exit(0)", "error"),
        ("def f(x):\n    import sys\n    print(sum(x))", "wrong answer"),
        ("class E(int):\n    __eq__ = lambda s, o: True\ndef f(x):\n    return E(7)", "wrong answer"),
        ("def f(x):\n    return True", "wrong answer"),
        ("def f(x):\n    return float(sum(x))", "wrong answer"),
    ],
)
def test_programs_that_fail_say_how(body: str, reason: str) -> None:
    grade = grade_code(block(body), TESTS)
    assert (grade.correct, grade.reason) == (False, reason)


def test_the_program_never_sees_what_is_expected() -> None:
    """A program that searches all that it can reach for the expected value does not find it."""
    body = """
import gc, os, sys
def f(x):
    seen = repr(sys.argv) + repr(dict(os.environ)) + repr([o for o in gc.get_objects() if type(o) is dict])
    frame = sys._getframe()
    while frame:
        seen += repr(frame.f_locals) + repr(frame.f_globals)
        frame = frame.f_back
    wanted = str(900000000 + 87654321)
    return int(wanted) if wanted in seen else 0
"""
    cases = json.dumps([{"args": [[1]], "expected": 987654321}])
    assert grade_code(block(body), cases).reason == "wrong answer"


def test_strict_comparison_of_values() -> None:
    assert same([1, [2]], [1, [2]])
    assert not same(True, 1)
    assert not same(1.0, 1)
    assert not same([1], [1, 2])


def test_grades_come_in_the_order_of_the_answers() -> None:
    pairs = [(block(f"def f(x):\n    return {'sum(x)' if i % 2 else '0'}"), TESTS) for i in range(8)]
    assert [g.correct for g in grade_many(pairs, progress=False)] == [False, True] * 4


@pytest.mark.reliability(kind="bad input", title="a problem without an answer or tests")
def test_a_problem_that_cannot_be_graded_is_named_before_anything_runs() -> None:
    with pytest.raises(ParameterError, match="example a"):
        evaluate(None, [Example("a", "math", "p", "r")], None)
