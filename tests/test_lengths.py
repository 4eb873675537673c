"""What the context's end takes away is counted, whole and by group."""

from __future__ import annotations

import pytest

from infra_lib import tables
from infra_lib.errors import DataError, ModelError
from infra_lib.examples import Example
from infra_lib.lengths import cut_report, encode_within
from infra_lib.models import chat_text, encode

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_nothing_is_lost_in_a_long_context_and_all_is_counted_in_a_short_one(tokenizer, splits) -> None:
    examples = splits.train
    whole, lost = encode_within(tokenizer, examples, 10_000)
    assert not lost
    table = cut_report(whole, examples)
    assert table["lost"].sum() == 0
    limit = 90
    cut, lost = encode_within(tokenizer, examples, limit)
    table = cut_report(cut, examples)
    full = {row.id: row.n_tokens for row in whole}
    kept = {row.id: row.n_tokens for row in cut}
    total = table[table["domain"] == "all"].iloc[0]
    assert total["lost"] == sum(full[key] - kept[key] for key in kept) > 0
    assert total["tokens"] == sum(full[key] for key in kept)
    assert total["cut"] == sum(full[key] > kept[key] for key in kept)
    assert len(cut) + len(lost) == len(examples)
    assert all(len(row.input_ids) <= limit for row in cut)
    by_domain = table[(table["difficulty"] == "all") & (table["domain"] != "all")]
    fine = table[table["difficulty"] != "all"]
    for column in ("examples", "cut", "tokens", "lost"):
        assert by_domain[column].sum() == fine[column].sum() == total[column]


def test_a_prompt_that_fills_the_context_is_lost_by_name(tokenizer, splits) -> None:
    encoded, lost = encode_within(tokenizer, splits.train[:3], 2)
    assert encoded == []
    assert lost == [example.id for example in splits.train[:3]]


def test_examples_without_difficulty_are_a_group(tokenizer) -> None:
    examples = [
        Example("a", "math", "Tom has 1", " stamps"),
        Example("b", "math", "Tom", " has 2", difficulty=2),
    ]
    encoded, _ = encode_within(tokenizer, examples, 100)
    assert list(cut_report(encoded, examples)["difficulty"]) == ["2", "none", "all", "all"]
    with pytest.raises(DataError, match="not among the examples"):
        cut_report(encoded, examples[:1])


@pytest.mark.reliability(kind="bad input", title="a chat template that is missing or refuses an example")
def test_a_missing_or_narrow_chat_template_is_named(tokenizer, monkeypatch) -> None:
    example = Example("a", "math", "Tom", " has 2", system="Think.")
    with pytest.raises(ModelError, match="no chat template"):
        encode(tokenizer, example, chat_template=True)
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    assert chat_text(tokenizer, example) == "<system>Think.<user>Tom<assistant>"
    monkeypatch.setattr(
        tokenizer,
        "chat_template",
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}",
    )
    with pytest.raises(ModelError, match=r"refuses example a \(no system\)"):
        chat_text(tokenizer, example)


def test_system_text_stands_before_the_prompt_without_a_template(tokenizer) -> None:
    plain = encode(tokenizer, Example("a", "math", "Think\n\nTom", " has 2"), chat_template=False)
    split = encode(tokenizer, Example("a", "math", "Tom", " has 2", system="Think"), chat_template=False)
    assert plain.input_ids.tolist() == split.input_ids.tolist()


def test_the_table_says_what_is_cut_and_that_nothing_is(tokenizer, splits) -> None:
    whole = cut_report(encode_within(tokenizer, splits.train, None)[0], splits.train)
    assert "nothing is cut (there is no max_tokens)" in tables.cut_table(whole, None)
    some = cut_report(encode_within(tokenizer, splits.train, 60)[0], splits.train)
    shown = tables.cut_table(some, 60)
    assert f"{some.iloc[-1]['lost']:,}" in shown
    assert shown.count("<tr") == len(some) + 1
