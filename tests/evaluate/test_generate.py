"""Generation answers every prompt in order, whatever the batch, and stops at the end token."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_qwen2

from infra_lib.errors import ParameterError
from infra_lib.evaluate.generate import generate, transformers_engine


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_qwen2(len(tokenizer), seed=3)


def test_answers_do_not_depend_on_the_batch_or_the_order(model, tokenizer, splits) -> None:
    prompts = [example.prompt for example in splits.test]
    plain = generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=1, progress=False)
    assert generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=7, progress=False) == plain
    backwards = generate(model, tokenizer, prompts[::-1], max_new_tokens=12, batch_size=7, progress=False)
    assert backwards[::-1] == plain


def test_greedy_answers_take_the_likeliest_token_each_time(model, tokenizer, splits) -> None:
    prompt = splits.test[0].prompt
    ids = tokenizer(prompt).input_ids
    for _ in range(6):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    new = ids[len(tokenizer(prompt).input_ids) :]
    if tokenizer.eos_token_id in new:
        new = new[: new.index(tokenizer.eos_token_id)]
    expected = tokenizer.decode(new, skip_special_tokens=True)
    assert generate(model, tokenizer, [prompt], max_new_tokens=6, progress=False) == [[expected]]


def test_sampling_follows_its_seed_and_gives_as_many_as_asked(model, tokenizer, splits) -> None:
    prompts = [example.prompt for example in splits.test[:3]]
    options = {"max_new_tokens": 8, "temperature": 1.0, "samples": 4, "progress": False}
    first, again, other = (generate(model, tokenizer, prompts, seed=s, **options) for s in (0, 0, 1))
    assert first == again != other
    assert [len(answers) for answers in first] == [4, 4, 4]
    assert len({text for answers in first for text in answers}) > 4


@pytest.mark.reliability(kind="bad input", title="generation from nothing or without end")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"batch_size": 0}, "batch_size"),
        ({"temperature": -1}, "temperature"),
        ({"samples": 2}, "samples"),
    ],
)
def test_bad_input_is_named(model, tokenizer, change, named) -> None:
    with pytest.raises(ParameterError, match=named):
        generate(model, tokenizer, ["a"], **{"max_new_tokens": 1, **change})


def test_a_gpu_batch_holds_as_many_tokens_as_its_cache() -> None:
    model = SimpleNamespace(
        device=torch.device("cuda"),
        dtype=torch.bfloat16,
        config=SimpleNamespace(
            num_key_value_heads=4, num_attention_heads=28, hidden_size=3584, num_hidden_layers=28
        ),
    )
    token = 2 * 28 * 4 * 128 * 2  # keys and values of every layer, as Qwen2.5-7B has them
    assert transformers_engine._batch_tokens(model) == transformers_engine.CACHE_BYTES // token
    model.device = torch.device("cpu")
    assert transformers_engine._batch_tokens(model) == transformers_engine.BATCH_TOKENS
