"""Benchmarks are scored as their authors score them: right answers pass, near misses and traps do not."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from infra_lib.answers import last_boxed, last_hashes, last_stated
from infra_lib.errors import ParameterError
from infra_lib.evaluate import contest, sandbox
from infra_lib.evaluate.accuracy import grade_all
from infra_lib.evaluate.equivalence import same_value
from infra_lib.evaluate.normal_form import normal_form
from infra_lib.evaluate.official import RULES, grade, grade_each, humaneval_program, mbpp_program
from infra_lib.examples import Example
from infra_lib.sources.registry import load

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
BOX = "\\boxed{%s}"

needs_sandbox = pytest.mark.skipif(
    sandbox.isolation() != "bubblewrap", reason="bubblewrap does not work on this machine"
)


def example(scoring: str, answer: str) -> Example:
    return Example("x", "math", "p", "", answer=answer, scoring=scoring)


def test_the_last_closed_box_counts() -> None:
    assert last_boxed(r"\boxed{1} then \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert last_boxed(r"\boxed{1} then \boxed{2") is None
    assert last_boxed(r"\fbox{3}") == "3"
    assert last_boxed("none") is None
    assert last_boxed("\\boxed{" * 20_000) is None
    assert last_hashes("#### 1\n text #### 2\n  #### 3 \n") == "3"
    assert last_stated("the answer is 3.5. The answer is x.") == "x"


@pytest.mark.parametrize(
    ("response", "answer", "correct"),
    [
        ("It has\n#### 1,020", "1020", True),
        ("#### 1020.0", "1020", True),
        ("#### $1020.", "1020", True),
        ("\\boxed{1020}", "1020", True),
        ("#### 5\n\\boxed{1020}", "1020", False),  # the official form goes first
        ("#### 12\nno\n#### 1020", "1020", True),
        ("So the answer is 1020.", "1020", True),
        ("The train has 1020 seats", "1020", False),
        ("#### 1020 seats", "1020", False),
        ("#### -5", "-5", True),
        ("#### 5", "-5", False),
        ("\\boxed{\\$1{,}020}", "1020", False),
        ("\\boxed{\\$1,020}", "1020", True),
        ("", "1020", False),
    ],
)
def test_gsm8k(response: str, answer: str, correct: bool) -> None:
    assert grade(response, example("gsm8k", answer)).correct is correct


@pytest.mark.parametrize(
    ("response", "answer", "correct"),
    [
        (BOX % r"\dfrac{1}{4}", r"\frac{1}{4}", True),
        (BOX % "0.25", r"\frac{1}{4}", True),
        (BOX % r"\frac14", r"\frac{1}{4}", True),
        (BOX % "1/3", r"\frac{1}{4}", False),
        (BOX % "(3, 6)", "(3,6)", True),
        (BOX % r"\left( 3,6 \right)", "(3,6)", True),
        (BOX % "(6,3)", "(3,6)", False),
        (BOX % "(36)", "(3,6)", False),
        (BOX % "[-2, 2]", "[-2,2]", True),
        (BOX % "(-2,2)", "[-2,2]", False),
        (BOX % r"12\text{ cm}", "12", True),
        (BOX % r"\text{Friday}", "Friday", True),
        (BOX % "Monday", r"\text{Friday}", False),
        (BOX % "10{,}000", "10,000", True),
        (BOX % r"90^\circ", "90", True),
        (BOX % "x = 5", "5", True),
        (BOX % r"2\sqrt3", r"2\sqrt{3}", True),
        (BOX % r"\frac{2}{8}", r"\frac{1}{4}", True),
        (f"First {BOX % '7'}, no, {BOX % '8'}", "8", True),
        (f"First {BOX % '8'}, no, {BOX % '7'}", "8", False),
        ("The answer is 8.", "8", True),
        ("8", "8", False),
    ],
)
def test_math(response: str, answer: str, correct: bool) -> None:
    assert grade(response, example("math", answer)).correct is correct


@pytest.mark.parametrize(
    "text", ["9^{9^{9^{9}}}", "(2^{1000000})!", "\\frac{1}{0}", "\\", "$" * 50, "\x00", "☃"]
)
def test_an_answer_that_computes_for_ever_is_wrong_and_holds_nothing_up(text: str) -> None:
    assert same_value("\\frac{1}{2}", text, seconds=1.0) is False
    assert same_value("\\frac{1}{2}", "0.5") is True


def test_threads_share_the_process_of_math_verify() -> None:
    pairs = [(f"\\frac{{{n}}}{{2}}", f"{n / 2 if n % 3 else n}") for n in range(1, 25)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: same_value(*pair), pairs))
    assert found == [n % 3 != 0 for n in range(1, 25)]


def test_the_normal_form_keeps_what_tells_answers_apart() -> None:
    different = [
        "1",
        "-1",
        "1.5",
        "15",
        "(1,2)",
        "[1,2]",
        "(1,2]",
        "(12)",
        r"\frac{1}{2}",
        r"\frac{2}{1}",
        "1,2",
    ]
    assert len({normal_form(text) for text in different}) == len(different)


@pytest.mark.parametrize(
    ("box", "answer", "correct"),
    [
        ("42", "42", True),
        ("042", "42", True),
        ("42", "042", True),
        ("$42$", "42", True),
        ("42.0", "42", False),
        (r"\frac{84}{2}", "42", False),
        ("1042", "42", False),
        ("-42", "42", False),
        ("", "0", False),
        ("000", "0", True),
    ],
)
def test_an_aime_answer_is_a_whole_number_below_1000(box: str, answer: str, correct: bool) -> None:
    assert grade(BOX % box, example("aime", answer)).correct is correct


@pytest.mark.parametrize("name", ["gsm8k", "math500", "aime24"])
def test_reference_solutions_pass_their_own_rule(name: str) -> None:
    examples = load(name, FIXTURES / name).examples
    assert all(g.correct for g in grade_all(examples, [e.response for e in examples], progress=False))


def test_every_generated_solution_of_gsm_symbolic_passes() -> None:
    examples = load("gsm_symbolic", size=300, seed=3).examples
    grades = grade_each(examples, [e.response for e in examples], progress=False)
    assert all(g.correct for g in grades)
    wrong = [replace(e, answer=str(float(str(e.answer)) + 1)) for e in examples]
    assert not any(g.correct for g in grade_each(wrong, [e.response for e in examples], progress=False))


@pytest.mark.reliability(kind="bad input", title="a rule of scoring that is not known")
def test_a_rule_that_is_not_known_is_named() -> None:
    with pytest.raises(ParameterError, match=r"scoring is 'guess'.*gsm8k, math, aime, mbpp"):
        grade_each([example("guess", "1")], ["1"], progress=False)
    assert set(RULES) >= {"gsm8k", "math", "aime", "mbpp", "humaneval", "livecodebench"}


# --- Programs ----------------------------------------------------------------------------------


def test_where_an_mbpp_program_stands() -> None:
    code = "def f():\n    return 1"
    assert mbpp_program(f"{code}\n[DONE]\nmore") == f"{code}\n"
    assert mbpp_program(f"[BEGIN]\n{code}\n[DONE]").strip() == code
    assert mbpp_program(f"```python\nx\n```\nbetter:\n```python\n{code}\n```").strip() == code
    assert mbpp_program(code) == code
    assert mbpp_program("I cannot.") is None


def test_where_a_humaneval_program_stands() -> None:
    prompt = "import math\n\n\ndef f(x):\n    '''Doc.'''\n"
    assert humaneval_program("    return x\n\nprint(f(1))\n", prompt, "f") == prompt + "    return x\n"
    assert humaneval_program("```python\n    return x\n```", prompt, "f") == prompt + "    return x\n"
    whole = "def f(x):\n    return math.floor(x)\n"
    assert humaneval_program(f"Here:\n```python\n{whole}```", prompt, "f") == f"{prompt}\n{whole}"
    assert humaneval_program(whole, prompt, "f") == f"{prompt}\n{whole}"
    assert humaneval_program("  \n", prompt, "f") is None


@needs_sandbox
@pytest.mark.parametrize(
    ("name", "options"), [("mbpp", {}), ("mbpp", {"config": "sanitized"}), ("humaneval", {})]
)
def test_reference_programs_pass_and_broken_ones_do_not(name: str, options: dict) -> None:
    examples = load(name, FIXTURES / name, **options).examples
    grades = grade_all(examples, [e.response for e in examples], progress=False)
    assert [g.reason for g in grades] == ["correct"] * len(examples)
    broken = [
        e.response.replace("[-2]", "[-1]").replace("a * a +", "a +").replace("twice(value)", "1")
        for e in examples
    ]
    grades = grade_all(examples, broken, progress=False)
    assert [g.reason for g in grades] == ["wrong answer"] * len(examples)
    assert grade("No idea.", examples[0]).reason in ("no program", "error")


@needs_sandbox
def test_a_humaneval_program_cannot_replace_the_helpers_of_its_tests() -> None:
    task = load("humaneval", FIXTURES / "humaneval").examples[0]
    cheat = (
        "```python\ndef twice(value):\n    return 0\n\ndef doubled(values):\n"
        "    return {1: [2, 4], 0: []}.get(values[:1] == [1], [0])\n```"
    )
    assert not grade(cheat, task).correct


@needs_sandbox
@pytest.mark.slow
def test_all_164_references_of_humaneval_pass() -> None:
    examples = load("humaneval", "package").examples
    grades = grade_each(examples, [e.response for e in examples], progress=False)
    assert [e.id for e, g in zip(examples, grades, strict=True) if not g.correct] == []
    assert len(grades) == 164


# --- LiveCodeBench -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("2\n", "2", True),
        ("  2  \n\n", "2", True),
        ("2.50", "2.5", True),
        ("1e2", "100", True),
        ("1 2.0", "1  2", True),
        ("50000000000000000", "50000000000000001", False),
        ("0.1000001", "0.1", False),
        ("yes", "Yes", False),
        ("a b", "a  b", False),
        ("1\n2", "1 2", False),
        ("1\n\n2", "1\n2", False),
        ("", "1", False),
        ("", "", True),
        ("nan", "NaN", False),
        ("snan 1", "snan 2", False),
        ("1 x", "1.0 x", False),
        ("a\x0cb", "a\nb", False),
    ],
)
def test_printed_text_is_compared_as_officially(printed: str, expected: str, same: bool) -> None:
    assert contest.same_lines(printed, expected) is same


def fenced(code: str) -> str:
    return f"I think:\n```python\nwrong()\n```\nNo:\n```python\n{code}\n```\nDone."


def test_a_contest_program_stands_between_the_last_two_fences() -> None:
    assert contest.extract(fenced("right()")) == "right()"
    assert contest.extract("```\nx") is None
    assert contest.extract("x = 1") is None
    assert contest.extract("```python\n```") is None


HALF = "n = int(input())\nprint({})"
SOLUTION = """class Solution:
    def pairSum(self, values: List[int], target: int) -> List[int]:
        for i, j in combinations(range(len(values)), 2):
            if values[i] + values[j] == target:
                return {}
"""
WORDS = "import sys\nfor word in sys.stdin.read().split():\n    print(word)\nsys.exit()"


@needs_sandbox
@pytest.mark.parametrize(
    ("index", "code", "reason"),
    [
        (0, HALF.format("n / 2"), "correct"),
        (0, HALF.format("n // 2"), "wrong answer"),  # right on the public case, wrong on a private one
        (0, HALF.format("n / 0"), "error"),
        (0, "print(2)", "wrong answer"),
        (1, SOLUTION.format("[i, j]"), "correct"),
        (1, SOLUTION.format("i, j"), "correct"),  # a tuple counts as a list
        (1, SOLUTION.format("[float(i), float(j)]"), "correct"),  # 1.0 == 1, as officially
        (1, SOLUTION.format("[j, i]"), "wrong answer"),
        (1, "def pairSum(values, target):\n    return [1, 2]", "wrong answer"),
        (1, SOLUTION.replace("class Solution", "class Other").format("[i, j]"), "error"),
        (2, WORDS, "correct"),
        (2, "print(open(0).read())", "wrong answer"),
    ],
)
def test_livecodebench_needs_every_public_and_private_case(index: int, code: str, reason: str) -> None:
    problem = load("livecodebench", FIXTURES / "livecodebench").examples[index]
    found = grade(fenced(code), problem)
    assert (found.correct, found.reason) == (reason == "correct", reason)


@needs_sandbox
def test_a_case_that_takes_too_long_fails() -> None:
    problem = load("livecodebench", FIXTURES / "livecodebench").examples[0]
    quick = replace(contest.LIMITS, cpu_seconds=1, wall_seconds=2.0)
    found = contest.grade(fenced("while True: pass"), str(problem.tests), limits=quick)
    assert found.reason == "timeout"


def test_the_checkers_imports_are_there() -> None:
    scope: dict = {}
    # A fresh interpreter would be cleaner; the recursion limit is put back.
    limit = sys.getrecursionlimit()
    try:
        exec(contest.PRELUDE, scope)
    finally:
        sys.setrecursionlimit(limit)
    for name in (
        "List",
        "deque",
        "heappush",
        "bisect_left",
        "gcd",
        "Counter",
        "lru_cache",
        "accumulate",
        "math",
    ):
        assert name in scope
    assert scope["pow"] is pow
    assert scope["open"] is open


def test_grading_keeps_the_order_of_mixed_examples() -> None:
    examples = [
        Example("a", "math", "p", "", answer="1"),
        example("gsm8k", "2"),
        Example("c", "math", "p", "", answer="3"),
        example("aime", "4"),
    ]
    responses = ["the answer is 1.", "#### 2", "the answer is 0.", "\\boxed{004}"]
    grades = grade_all(examples, responses, progress=False)
    assert [g.correct for g in grades] == [True, True, False, True]
    assert json.dumps([g.extracted for g in grades]) == '["1", "2", "0", "004"]'
