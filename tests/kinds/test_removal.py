"""Examples without exploration, and as many tokens less: what goes, and what stays as it was."""

from __future__ import annotations

import pytest

from infra_lib.errors import ParameterError
from infra_lib.examples import Example, Sentence
from infra_lib.kinds.removal import with_fewer_tokens, without_exploration
from infra_lib.kinds.sentences import EXPLORATORY, with_kinds
from infra_lib.sources.small_world import SplitSizes, make_splits


@pytest.fixture(scope="module")
def train() -> list[Example]:
    sizes = SplitSizes(train=300, swap_pool=0, target=10, test=10)
    return list(make_splits(sizes, seed=5, exploratory_fraction=0.6).train)


def test_only_exploration_goes(train) -> None:
    changed = 0
    for example in train:
        short = without_exploration(example)
        labels = [span.kind for span in example.sentences]
        assert [span.kind for span in short.sentences] == [k for k in labels if k not in EXPLORATORY]
        assert not {span.kind for span in with_kinds(short)} & set(EXPLORATORY)
        pieces = [short.response[span.start : span.end] for span in short.sentences]
        assert "".join(pieces) == short.response
        changed += short is not example
        if short is example:
            assert not set(labels) & set(EXPLORATORY)
        assert (short.id, short.prompt, short.answer, short.tests) == (
            example.id,
            example.prompt,
            example.answer,
            example.tests,
        )
    assert 50 < changed < 150


def test_a_mend_stays_since_its_slip_does(train) -> None:
    mended = [ex for ex in train if any(span.kind == "mend" for span in ex.sentences)]
    assert mended
    assert all("that is wrong" in without_exploration(example).response for example in mended)


def test_what_ends_in_exploration_ends_cleanly() -> None:
    example = Example("a", "math", "p", "It is 4. Let me check this.")
    assert without_exploration(example).response == "It is 4."


def test_a_response_that_explores_only_stays() -> None:
    example = Example("a", "math", "p", "Wait, is it? Let me check.", sentences=(Sentence(0, 26),))
    assert without_exploration(example) is example


def test_whole_examples_go_until_the_tokens_are_met(train) -> None:
    def count(example: Example) -> int:
        return len(example.response)

    own = {d: sum(count(ex) for ex in train if ex.domain == d) for d in ("math", "code")}
    asked = {"math": int(0.9 * own["math"]), "code": own["code"]}
    kept = with_fewer_tokens(train, asked, count_tokens=count, seed=0)
    left = {d: sum(count(ex) for ex in kept if ex.domain == d) for d in own}
    longest = max(map(count, train))
    assert asked["math"] - longest < left["math"] <= asked["math"]
    assert left["code"] == own["code"]
    assert [ex.id for ex in kept] == [ex.id for ex in train if ex in kept], "in order"
    assert kept == with_fewer_tokens(train, asked, count_tokens=count, seed=0)
    assert kept != with_fewer_tokens(train, asked, count_tokens=count, seed=1)


@pytest.mark.reliability(kind="bad input", title="removal of kinds without the tokens of a domain")
def test_every_domain_needs_its_tokens(train) -> None:
    with pytest.raises(ParameterError, match="lacks code"):
        with_fewer_tokens(train, {"math": 1}, count_tokens=lambda _: 1, seed=0)
