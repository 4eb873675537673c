"""Long traces fall into steps and sentences that keep every character."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra_lib.examples import Example
from infra_lib.sentences import split_sentences
from infra_lib.sources.registry import load
from infra_lib.steps import COUNTED, count_steps, is_trace, label_sentences, split_steps, turn_of
from infra_lib.tables import steps_table

FIXTURES = Path(__file__).resolve().parent / "fixtures"

TRACE = r"""<|begin_of_thought|>

Okay, so I need 3.5 times x. Let me call that y, i.e. $y = 3.5x.$ Then Eq. 2 gives
\[
y = 7. \quad \text{So } x = 2.
\]

Wait, is 3.5 right? Yes. Alternatively, I could use fractions, e.g. $\frac{7}{2}$. That gives 2, too.

1. First case. It holds.
2. Second case.

```python
x = 2.

# Wait. Not prose.
```

Hmm, let me double-check: it costs $5. Then $6. Fine.

<|end_of_thought|>

<|begin_of_solution|>

**Step 1.** Solve.

Therefore, \(x = 2. \) is right.

\boxed{2}

<|end_of_solution|>"""


def sentences(text: str) -> list[str]:
    return [text[s.start : s.end] for s in split_sentences(text)]


def test_a_trace_in_sentences() -> None:
    assert [part.strip() for part in sentences(TRACE)] == [
        "<|begin_of_thought|>",
        "Okay, so I need 3.5 times x.",
        "Let me call that y, i.e. $y = 3.5x.$ Then Eq. 2 gives",
        "\\[\ny = 7. \\quad \\text{So } x = 2.\n\\]",
        "Wait, is 3.5 right?",
        "Yes.",
        r"Alternatively, I could use fractions, e.g. $\frac{7}{2}$.",
        "That gives 2, too.",
        "1. First case.",
        "It holds.",
        "2. Second case.",
        "```python\nx = 2.\n\n# Wait. Not prose.\n```",
        "Hmm, let me double-check: it costs $5.",
        "Then $6.",
        "Fine.",
        "<|end_of_thought|>",
        "<|begin_of_solution|>",
        "**Step 1.** Solve.",
        r"Therefore, \(x = 2. \) is right.",
        r"\boxed{2}",
        "<|end_of_solution|>",
    ]


def test_a_trace_in_steps() -> None:
    found = [(s.section, s.turn, TRACE[s.start : s.end].split("\n")[0][:16]) for s in split_steps(TRACE)]
    assert found == [
        (None, "tag", "<|begin_of_thoug"),
        ("thought", None, "Okay, so I need "),
        ("thought", "check", "Wait, is 3.5 rig"),
        ("thought", "alternative", "Alternatively, I"),
        ("thought", None, "1. First case. I"),
        ("thought", None, "```python"),
        ("thought", "check", "Hmm, let me doub"),
        (None, "tag", "<|end_of_thought"),
        (None, "tag", "<|begin_of_solut"),
        ("solution", None, "**Step 1.** Solv"),
        ("solution", "conclusion", "Therefore, \\(x ="),
        ("solution", None, "\\boxed{2}"),
        (None, "tag", "<|end_of_solutio"),
    ]


def test_sentences_of_a_trace_get_the_kinds_of_the_small_world() -> None:
    labelled = label_sentences(TRACE)
    assert [(s.start, s.end) for s in labelled] == [(s.start, s.end) for s in split_sentences(TRACE)]
    kinds = [s.kind for s in labelled]
    assert kinds.count("tag") == 4
    assert kinds.count("check") == 2
    assert kinds.count("alternative") == kinds.count("program") == kinds.count("conclusion") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("By Fig. 3 it holds. No. Wait.", ["By Fig. 3 it holds. ", "No. ", "Wait."]),
        ("See No. 5 here. Next.", ["See No. 5 here. ", "Next."]),
        ("It ends at B. Then C.", ["It ends at B. ", "Then C."]),
        ("Start with 12. First it", ["Start with 12. ", "First it"]),
        ("a) One. b\n12) Two. c", ["a) One. ", "b\n", "12) Two. ", "c"]),
        ("$a = 1. b$ holds. Next.", ["$a = 1. b$ holds. ", "Next."]),
        ("Pay $5. Then pay $6. End.", ["Pay $5. ", "Then pay $6. ", "End."]),
        ("$$x. \n\ny$$ is it. Yes.", ["$$x. \n\ny$$ is it. ", "Yes."]),
        (
            r"\begin{align*} a. \\ b \end{align*} Go. On.",
            [r"\begin{align*} a. \\ b \end{align*} Go. ", "On."],
        ),
        (r"Open \[ a. Then b.", [r"Open \[ a. ", "Then b."]),
        ("<think>\nHm. Ok.</think>\n\nSo.", ["<think>\n", "Hm. ", "Ok.", "</think>\n\n", "So."]),
        ("One.\n1. Two. Three.\n\n2. Four", ["One.\n", "1. Two. ", "Three.\n\n", "2. Four"]),
        ("such as e.g.\nthis", ["such as e.g.\n", "this"]),
        ("x vs. y, cf. z. Done.", ["x vs. y, cf. z. ", "Done."]),
    ],
)
def test_rules_of_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("sentence", "turn"),
    [
        ("Wait, no.", "check"),
        ("But wait, that is odd.", "check"),
        ("Let me verify this.", "check"),
        ("Let's double check.", "check"),
        ("**Wait**", "check"),
        ("Waiting costs nothing.", None),
        ("Alternatively, use b.", "alternative"),
        ("Or maybe it is 3.", "alternative"),
        ("Let's try x = 3.", "alternative"),
        ("Thus x = 3.", "conclusion"),
        ("So, the answer is 3.", "conclusion"),
        ("So x = 3.", None),
        ("We check that.", None),
    ],
)
def test_turns_are_read_from_first_words(sentence: str, turn: str | None) -> None:
    assert turn_of(sentence) == turn


PIECES = st.sampled_from(
    [
        *("$", "$$", "\\[", "\\]", "\\(", "\\)", "\\begin{align}", "\\end{align}", "```", "```\n", "<think>"),
        *(
            "</think>",
            "<|begin_of_thought|>",
            "<|end_of_solution|>",
            "Wait",
            "x",
            "3.5",
            "!",
            " ",
            "\n",
            "\n\n",
        ),
        *(". ", "1. ", "e.g. "),
    ]
)


@pytest.mark.reliability(kind="fuzz", title="sentences and steps of any arrangement")
@given(st.lists(PIECES, max_size=60).map("".join))
@settings(max_examples=300, deadline=None)
def test_sentences_and_steps_cover_any_arrangement(text: str) -> None:
    assert "".join(sentences(text)) == text
    steps = split_steps(text)
    assert "".join(text[s.start : s.end] for s in steps) == text
    assert sum(s.sentences for s in steps) == len(split_sentences(text))


def test_traces_of_every_fixture_are_covered() -> None:
    for name in ("bespoke_stratos", "open_thoughts"):
        for example in load(name, FIXTURES / name).examples:
            steps = split_steps(example.response)
            assert "".join(example.response[s.start : s.end] for s in steps) == example.response
            assert {"thought", "solution"} <= {s.section for s in steps}


@pytest.mark.parametrize(
    "unit",
    [
        "\\[ ",
        "$$ ",
        "$a ",
        "\\begin{align} ",
        "\\begin{a} ",
        "Wait. ",
        "1. ",
        "<think>",
        "\n \n",
        "$",
        "e.g. ",
    ],
)
def test_work_grows_in_step_with_length(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted and not timed: how many characters the searches are asked to look at."""
    import infra_lib.sentences as module

    asked = 0

    class Text(str):
        def find(self, what: str, start: int = 0, *rest: int) -> int:
            nonlocal asked
            found = super().find(what, start, *rest)
            asked += (len(self) if found < 0 else found) - start
            return found

    for count in (2_000, 4_000):
        asked = 0
        list(module._whole(Text(unit * count)))
        assert asked <= 12 * len(unit) * count, json.dumps([unit, count, asked])


def test_steps_of_the_fixture_s_traces_are_counted_by_source_and_domain() -> None:
    loaded = load("bespoke_stratos", FIXTURES / "bespoke_stratos").examples
    plain = [Example("p", "math", "p", "No tags here.\n\nWait, none.")]
    table = count_steps([*loaded, *plain], [*["bespoke_stratos"] * len(loaded), "own.jsonl"])
    assert table["source"].tolist() == ["bespoke_stratos"] * 2
    assert table["domain"].tolist() == ["code", "math"]
    assert table["traces"].tolist() == table["examples"].tolist() == [2, 1]
    for row in table.itertuples():
        own = [
            [step for step in split_steps(ex.response) if step.turn != "tag"]
            for ex in loaded
            if ex.domain == row.domain
        ]
        assert row.steps == sum(map(len, own)) / len(own)
        assert row.check == sum(step.turn == "check" for steps in own for step in steps) / len(own)
    shown = steps_table(table)
    assert "1 of 1" in shown
    assert "2 of 2" in shown


def test_the_small_world_has_no_traces_and_the_table_says_so(splits) -> None:
    assert not any(is_trace(example.response) for example in splits.train)
    table = count_steps(splits.train, ["small_world"] * len(splits.train))
    assert table.empty
    assert list(table.columns) == list(COUNTED)
    assert "no steps are counted" in steps_table(table)
