"""Kinds of sentences: the rules agree with labels, on the small world and on other traces."""

from __future__ import annotations

import pytest

from infra_lib.examples import Example, Sentence
from infra_lib.kinds.sentences import KINDS, RULES, STEP, agreement, kind_of, rules_frame, with_kinds
from infra_lib.sources.small_world import SplitSizes, make_splits

# Written and labelled by hand, in the manner of distilled reasoning traces.
LABELLED = [
    ("program", "```python\ndef f(x):\n    return x\n```"),
    ("mend", "Wait, that is wrong: 40 + 2 = 42."),
    ("mend", "Hmm, that can't be right because the sum must be even."),
    ("mend", "I made a mistake in the second line."),
    ("mend", "Oh, I must have made a sign error there."),
    ("mend", "Scratch that, the roots are 2 and 3."),
    ("mend", "No, this isn't correct."),
    ("mend", "But wait, that's not right."),
    ("alternative", "Alternatively, we could use the law of cosines."),
    ("alternative", "Is there another way to see this?"),
    ("alternative", "Let me try a different approach."),
    ("alternative", "Wait, maybe the triangle is obtuse."),
    ("alternative", "What if x is negative?"),
    ("alternative", "Or alternatively, count the complement."),
    ("check", "Wait, let me check: 33 - 5 = 28, so it fits."),
    ("check", "Let me double-check the arithmetic."),
    ("check", "Let's verify this with a small case."),
    ("check", "To confirm, plug the value back into the equation."),
    ("check", "Plugging it back gives 9 = 9."),
    ("check", "Verify: 3 * 4 = 12."),
    ("check", "Hold on, does the loop handle an empty list?"),
    ("check", "I should check the edge cases."),
    ("check", "Sanity check: with n = 1 the formula gives 1."),
    ("conclusion", "Therefore the answer is 42."),
    ("conclusion", "So the final answer is \\boxed{7}."),
    ("conclusion", "**Final Answer:** \\boxed{12}"),
    ("conclusion", "Finally return the sum."),
    ("conclusion", "In conclusion, the sequence converges."),
    ("setup", "Start with 12."),
    ("setup", "Okay, so I need to find the smallest n."),
    ("setup", "We are given that x + y = 10."),
    ("setup", "The problem asks for the number of paths."),
    ("setup", "Let x be the number of apples."),
    ("setup", "First, let me understand the problem."),
    ("setup", "To solve this, consider the prime factors."),
    ("connector", "So far we have 12."),
    ("connector", "Now let's move to the second part."),
    ("connector", "Okay, good."),
    ("connector", "Moving on to the code."),
    ("step", "First it rises by 4, so 12 + 4 = 16."),
    ("step", "Then it doubles, so 16 * 2 = 32."),
    ("step", "Next each number drops by 5, so v - 5."),
    ("step", "Substituting gives x = 3."),
    ("step", "The product of the two roots equals 6."),
    ("step", "Since 7 is prime, it divides one of the factors."),
    ("step", "That is right above the diagonal."),
    ("step", "Now 3 + 4 = 7."),
    # What looks like another kind and is not.
    ("conclusion", "Hmm, so the answer is \\boxed{12}."),
    ("conclusion", "Wait, so the final answer is 12."),
    ("check", "Let me check whether the answer is 5."),
    ("setup", "We need to write a function to check whether n is prime."),
    ("step", "First check if n is even."),
    ("step", "To check divisibility by 3, sum the digits."),
    ("step", "We should check each neighbor and push it to the queue."),
    ("step", "Checkerboard colouring gives 32."),
    ("step", "Wait times are 5 minutes each."),
    ("step", "Another solution is x = -2."),
    ("step", "He took another route home."),
    ("step", "Another method is `append`."),
    ("step", "Then multiply both sides by 2."),
    ("step", "Then 3 × 4 is 12."),
    ("step", "Now $\\frac{3}{4}$ of 12 remain."),
    # Exploration in the dress of Markdown.
    ("check", "**Check:** 3+4=7"),
    ("check", "- Wait, that seems off."),
    ("check", "1. Verify the base case."),
    ("check", "**Verification**"),
    ("check", "So wait, 3."),
    ("check", "Actually, let me recompute this."),
    ("check", "Let me test with the first example."),
    ("check", "Let's test the code with the sample input."),
    ("alternative", "Let me try another method."),
]


@pytest.mark.parametrize(("kind", "sentence"), LABELLED)
def test_hand_labelled_sentences_have_their_kind(kind: str, sentence: str) -> None:
    assert kind_of(sentence) == kind
    assert kind_of(f"  {sentence.capitalize()}\n") == kind, "case and white space do not count"


def test_the_labels_cover_every_kind() -> None:
    assert {kind for kind, _ in LABELLED} == set(KINDS)
    assert {rule.kind for rule in RULES} | {STEP} == set(KINDS)
    assert set(rules_frame()["kind"]) == set(KINDS)


@pytest.fixture(scope="module")
def world() -> list[Example]:
    sizes = SplitSizes(train=400, swap_pool=0, target=10, test=10)
    return list(make_splits(sizes, seed=3, exploratory_fraction=0.6, conversational_fraction=0.5).train)


def test_the_rules_agree_with_the_generators_labels(world) -> None:
    found = agreement(world)
    assert set(found["label"]) == set(KINDS), "every label occurs"
    right = found.loc[found["label"] == found["kind"], "n"].sum()
    assert right / found["n"].sum() > 0.99
    for label, rows in found.groupby("label"):
        assert rows.loc[rows["kind"] == label, "n"].sum() / rows["n"].sum() > 0.95, label


def test_what_has_no_spans_is_split_and_sorted() -> None:
    example = Example("a", "math", "p", "Start with 2. Alternatively, 1 + 1 = 2. So the answer is 2.")
    assert [span.kind for span in with_kinds(example)] == ["setup", "alternative", "conclusion"]


def test_own_spans_stay_and_own_labels_do_not_count() -> None:
    example = Example("a", "math", "p", "Wait. Go.", sentences=(Sentence(0, 9, "setup"),))
    assert with_kinds(example) == (Sentence(0, 9, "check"),)


def test_what_is_not_labelled_is_not_counted() -> None:
    assert agreement([Example("a", "math", "p", "Wait. Go.")]).empty


def test_only_the_beginning_of_a_long_sentence_counts() -> None:
    assert kind_of("It goes on " + "and on " * 10 + "until we find another way.") == "alternative"
    assert kind_of("It goes on " + "and on " * 200 + "until we find another way.") == STEP
