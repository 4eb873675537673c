"""What the sandbox is made of: values on the wire, tests judged apart, refusal, the filter."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra_lib import pipeline
from infra_lib.errors import ParameterError
from infra_lib.evaluate import sandbox
from infra_lib.evaluate.grade_code import grade_many
from infra_lib.evaluate.sandbox import isolate, seccomp, wire
from infra_lib.study import Study

needs_bubblewrap = pytest.mark.skipif(
    sandbox.isolation() != "bubblewrap", reason="bubblewrap does not work here: apt-get install bubblewrap"
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.builds(range, st.integers(), st.integers(), st.integers(1)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(st.integers(), max_size=4)
        | st.frozensets(st.text(max_size=3), max_size=4)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=4)
    ),
    max_leaves=20,
)


def alike(value, other) -> bool:
    """Equal, and of the same types all the way down."""
    return repr(value) == repr(other) or (value == other and type(value) is type(other))


@pytest.mark.reliability(kind="fuzz", title="values that cross the sandbox's border")
@given(plain)
@settings(max_examples=300, deadline=None)
def test_plain_values_come_back_as_they_went(value) -> None:
    assert alike(wire.decode(wire.encode(value)), value)


@pytest.mark.reliability(kind="fuzz", title="any bytes in place of a value from the sandbox")
@given(st.binary(max_size=60) | st.text("nifcsbltezdr~o?:0123456789-", max_size=40).map(str.encode))
@settings(max_examples=500, deadline=None)
def test_no_bytes_do_more_than_fail_to_be_a_value(data: bytes) -> None:
    try:
        value = wire.decode(data)
    except ValueError:
        return
    assert wire.decode(wire.encode(value)) == value or not isinstance(value, int)


@pytest.mark.parametrize("tag", [b"e", b"z", b"d"])
def test_values_that_hash_alike_are_not_compared_for_hours(tag) -> None:
    def answer(count: int) -> bytes:
        each = 2 if tag == b"d" else 1
        items = b"".join(wire.encode((2**61 - 1) * k) for k in range(1, count * each + 1))
        return b"%b%d:%b" % (tag, len(items), items)

    assert len(wire.decode(answer(100))) == 100
    with pytest.raises(ValueError, match="more items of sets and keys of dicts"):
        wire.decode(answer(wire.HASHED + 1))
    half = answer(wire.HASHED // 2 + 1)
    with pytest.raises(ValueError, match="more items of sets and keys of dicts"):
        wire.decode(b"l%d:%b" % (2 * len(half), half * 2))


def test_subclasses_travel_as_their_plain_base_and_strangers_as_nothing() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Stranger:
        def __eq__(self, other: object) -> bool:
            return True

    assert type(wire.decode(wire.encode(Liar(7)))) is int
    arrived = wire.decode(wire.encode(Stranger()))
    assert arrived != Stranger()
    assert not arrived == 1  # noqa: SIM201
    with pytest.raises(TypeError, match="Stranger"):
        bool(arrived)
    assert math.isnan(wire.decode(wire.encode(float("nan"))))
    assert list(wire.decode(wire.encode(x for x in "ab"))) == ["a", "b"]


@needs_bubblewrap
@pytest.mark.parametrize(
    ("program", "tests", "options", "status"),
    [
        ("def f(x): return x * 2", "assert f(2) == 4\nassert f('a') == 'aa'", {}, "ok"),
        ("def f(x): return x * 2", "assert f(2) == 5", {}, "wrong"),
        ("def f(x): return (x, {1: [x]})", "assert f(1) == (1, {1: [1]})", {}, "ok"),
        ("def f(x): return [x, x]", "assert f(1) == (1, 1)", {}, "wrong"),
        ("def f(x): return {x}", "assert f(1) == {1} and 1 in f(1)", {}, "ok"),
        ("def f(x): return map(str, x)", "assert list(f([1])) == ['1']", {}, "ok"),
        ("def f(x): x.append(1)", "a = []\nf(a)\nassert a == [1]", {}, "ok"),
        ("def f(x): return int(x)", "try:\n    f('a')\n    assert False\nexcept ValueError: pass", {}, "ok"),
        ("def f(x): return 1 / x", "f(0)", {}, "error"),
        ("def g(x): return x", "assert f(1) == 1", {}, "error"),
        ("def f(x): return x", "assert f(lambda: 1)", {}, "refused"),
        ("def f(x): return x", "assert f(", {}, "refused"),
        ("def f(x):\n    while True: pass", "assert f(1)", {}, "timeout"),
        ("def f(x): return 'a' * 10**10", "assert f(1)", {}, "memory"),
        ("f = 1/0", "assert f(1)", {}, "error"),
        (
            "def f(xs): return sum(xs)",
            "def check(candidate):\n    assert candidate([1, helper()]) == 3",
            {"entry_point": "f", "setup": "def helper(): return 2\ndef f(xs): 'a stub'"},
            "ok",
        ),
        (
            "class Solution:\n    def f(self, x): return x + 1",
            "def check(candidate):\n    assert candidate(1) == 2",
            {"entry_point": "Solution.f"},
            "ok",
        ),
    ],
)
def test_tests_are_judged_as_if_they_ran_beside_the_program(program, tests, options, status) -> None:
    limits = sandbox.Limits(cpu_seconds=1, wall_seconds=20)
    outcome = sandbox.run_tests(program, tests, limits=limits, **options)
    assert outcome.status == status, outcome


@needs_bubblewrap
def test_what_is_wrong_is_told_from_what_fails() -> None:
    assert sandbox.check_output("print(int(input()) + 1)", "1\n", "2").status == "ok"
    assert sandbox.check_output("print(int(input()))", "1\n", "2").status == "wrong"
    assert sandbox.check_output("print(int(input()))", "a\n", "2").status == "error"
    assert (
        sandbox.check_calls("class A:\n    def f(self, x): return x, x", "A.f", [[1]], [(1, 1)]).status
        == "ok"
    )


@needs_bubblewrap
def test_the_same_program_prints_the_same_in_every_run() -> None:
    program = "print(list({'a', 'b', 'c', 'd', 'e', 'f', 'g'}))"
    assert len({sandbox.run(program).stdout for _ in range(4)}) == 1


@needs_bubblewrap
def test_peak_memory_is_seen() -> None:
    small = sandbox.run("pass").peak_memory_mb
    assert 2 < small < 40
    assert sandbox.run("x = bytearray(b'1') * (100 * 2**20)").peak_memory_mb > small + 90


@pytest.fixture
def nothing_works(monkeypatch):
    monkeypatch.setattr(isolate, "_probe_all", lambda: (None, "bubblewrap is not installed"))


@pytest.mark.reliability(kind="bad input", title="programs to grade where there is no sandbox")
def test_without_namespaces_programs_are_refused_with_what_to_type(nothing_works) -> None:
    for outcome in (
        sandbox.run("print(1)"),
        sandbox.call("def f(): pass", "f", [[]]),
        sandbox.run_tests("def f(): pass", "f()"),
    ):
        assert outcome.status == "refused"
        assert "bubblewrap" in outcome.stderr
        assert "sandbox=process" in outcome.stderr
    assert sandbox.isolation() == "none"
    with pytest.raises(sandbox.SandboxError, match="not installed"):
        grade_many([("```python\ndef f(): pass\n```", '[{"args": [], "expected": 1}]')], progress=False)
    assert grade_many([], progress=False) == []


@pytest.mark.reliability(kind="bad input", title="an isolation that is not known")
def test_plain_processes_are_used_when_asked_for_by_name(nothing_works) -> None:
    outcome = sandbox.run("print(6 * 7)", isolation="process")
    assert (outcome.status, outcome.stdout, outcome.isolation) == ("ok", "42\n", "process")
    with pytest.raises(ParameterError, match="one of auto, bubblewrap, process"):
        sandbox.run("print(1)", isolation="none")


def test_a_run_that_would_grade_programs_stops_before_it_starts(nothing_works, root, monkeypatch) -> None:
    monkeypatch.setattr(pipeline, "why_stale", lambda *_: ["it has not run"])
    with pytest.raises(sandbox.SandboxError, match="sandbox=process"):
        pipeline.check_machine(root, Study(), ["06_summary"])
    pipeline.check_machine(root, Study(), ["01_data"])
    pipeline.check_machine(root, Study(sandbox="process"), ["06_summary"])
    monkeypatch.setattr(pipeline, "why_stale", lambda *_: [])
    pipeline.check_machine(root, Study(), ["06_summary"])


@pytest.mark.parametrize("machine", sorted(seccomp.MACHINES))
def test_every_jump_of_the_filter_lands_inside_it(machine: str) -> None:
    code = seccomp.seccomp_filter(machine)
    assert code
    steps = list(struct.iter_unpack("<HBBI", code))
    assert len(steps) < 4096
    for position, (operation, then, otherwise, _) in enumerate(steps):
        if operation in (0x15, 0x35, 0x45):
            assert position + 1 + max(then, otherwise) < len(steps)
    assert steps[-1][0] == 0x06
    assert seccomp.seccomp_filter("unknown") is None
