"""Encoding marks the right tokens; batches, padding and bad folders behave."""

from __future__ import annotations

import shutil

import pytest
import torch
from conftest import tiny_qwen2

from infra_lib.errors import DataError, ModelError
from infra_lib.examples import Example
from infra_lib.models import (
    batches,
    check_model_folder,
    count_response_tokens,
    encode,
    linears,
    load_model,
    load_tokenizer,
    mlp_linears,
)
from infra_lib.responses import token_log_probs


def test_loss_mask_covers_the_response_and_nothing_else(tokenizer, splits) -> None:
    for example in splits.train:
        row = encode(tokenizer, example)
        response = row.input_ids[row.loss_mask].tolist()
        assert tokenizer.decode(response) == example.response
        assert tokenizer.decode(row.input_ids[~row.loss_mask].tolist()) == example.prompt


def test_offsets_cut_the_response_into_its_tokens(tokenizer, splits) -> None:
    for example in splits.train:
        row = encode(tokenizer, example, end_token=True)
        pieces = [example.response[a:b] for a, b in row.offsets]
        assert "".join(pieces) == example.response
        assert row.offsets[-1] == (len(example.response),) * 2
        assert int(row.input_ids[-1]) == tokenizer.eos_token_id


def test_sequence_is_prompt_tokens_then_response_tokens(tokenizer) -> None:
    example = Example("a", "math", "Find x.\n", "So the answer is 4.")
    expected = (
        tokenizer(example.prompt).input_ids + tokenizer(example.response, add_special_tokens=False).input_ids
    )
    assert encode(tokenizer, example).input_ids.tolist() == expected


@pytest.mark.reliability(kind="bad input", title="an example longer than the context")
def test_truncation_is_counted_and_a_full_context_is_an_error(tokenizer) -> None:
    example = Example("a", "math", "Find x.\n", "So the answer is 4.")
    whole = encode(tokenizer, example)
    cut = encode(tokenizer, example, max_tokens=len(whole.input_ids) - 2)
    assert (cut.truncated, cut.n_tokens) == (2, whole.n_tokens - 2)
    with pytest.raises(DataError, match="no response token"):
        encode(tokenizer, example, max_tokens=2)


def test_an_empty_prompt_leaves_the_first_token_without_a_loss(tokenizer) -> None:
    row = encode(tokenizer, Example("a", "math", "", "So the answer is 4."))
    assert not row.loss_mask[0]
    assert row.n_tokens == len(row.input_ids) - 1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("budget", [1, 400, 10_000])
def test_log_probs_depend_on_neither_batch_nor_padding(tokenizer, splits, side: str, budget: int) -> None:
    model = tiny_qwen2(len(tokenizer))
    rows = [encode(tokenizer, example) for example in splits.train[::4]]
    found = {}
    for batch in batches(rows, batch_tokens=budget, pad_id=0, padding_side=side):
        values = token_log_probs(model, batch)
        for i, index in enumerate(batch.rows):
            found[index] = values[i][batch.loss_mask[i]]
    assert sorted(found) == list(range(len(rows)))
    for index, row in enumerate(rows):
        logits = model(row.input_ids[None]).logits[0].log_softmax(-1)
        alone = torch.stack([logits[t - 1, row.input_ids[t]] for t in torch.where(row.loss_mask)[0]])
        assert torch.allclose(found[index], alone, atol=1e-4)


def test_batches_hold_to_their_budget(tokenizer, splits) -> None:
    rows = [encode(tokenizer, example) for example in splits.train]
    for batch in batches(rows, batch_tokens=600, pad_id=0):
        assert batch.input_ids.numel() <= 600 or len(batch.rows) == 1


def test_saved_model_and_tokenizer_come_back_the_same(model_folder, tokenizer) -> None:
    model = load_model(model_folder)
    original = tiny_qwen2(len(tokenizer))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), original.parameters(), strict=True))
    text = "Let x = 48. x = x + 2. Find x.\n"
    assert load_tokenizer(model_folder)(text).input_ids == tokenizer(text).input_ids


@pytest.mark.reliability(kind="bad input", title="a pattern of layers that matches none")
def test_mlp_linears_are_found_and_attention_is_not(tokenizer) -> None:
    model = tiny_qwen2(len(tokenizer))
    names = list(mlp_linears(model))
    assert len(names) == 3 * 2
    assert all(".mlp." in name for name in names)
    assert len(linears(model, r"self_attn\.o_proj")) == 2
    with pytest.raises(ModelError, match="no linear layer matching 'nothing'"):
        linears(model, "nothing")


def test_response_tokens_are_counted_without_special_tokens(tokenizer, splits) -> None:
    counts = count_response_tokens(tokenizer, splits.train)
    assert all(counts[e.id] == encode(tokenizer, e).n_tokens for e in splits.train)


@pytest.mark.reliability(kind="bad input", title="a missing, truncated or non-finite model")
def test_missing_truncated_and_non_finite_folders_are_named(model_folder, tmp_path) -> None:
    with pytest.raises(ModelError, match="neither a model folder nor a hub name"):
        check_model_folder(tmp_path / "none")
    for damage, message in (("config.json", "config.json cannot be read"), ("model.safetensors", "misses")):
        folder = tmp_path / damage
        shutil.copytree(model_folder, folder)
        (folder / damage).unlink()
        with pytest.raises(ModelError, match=message):
            load_model(folder)
    torn = tmp_path / "torn"
    shutil.copytree(model_folder, torn)
    content = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="truncated"):
        load_model(torn)
    from safetensors.torch import load_file, save_file

    poisoned = tmp_path / "nan"
    shutil.copytree(model_folder, poisoned)
    tensors = load_file(poisoned / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, poisoned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"tensor {name} holds values that are not finite"):
        load_model(poisoned)
