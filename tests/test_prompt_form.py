"""Whether prompts are turns of a chat template or plain text is recorded, and told where it matters."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace

import pytest
from conftest import tiny_qwen2

from infra_lib.attribute import Options, attribute
from infra_lib.errors import InfraWarning
from infra_lib.examples import write_jsonl
from infra_lib.files import digest_of
from infra_lib.finetune import FinetuneConfig
from infra_lib.finetune.command import FinetuneOptions, finetune_files
from infra_lib.models import save_model
from infra_lib.prompt_form import CHAT, PLAIN, cautions, describe_prompts, prompts_in_words

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


@pytest.fixture
def chatty(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.chat_template = TEMPLATE
    return own


@pytest.fixture
def with_system(splits):
    return [replace(example, system="Think at length.") for example in splits.train[:3]] + splits.train[3:5]


def test_the_form_is_that_of_the_tokenizer_unless_it_is_asked_for(tokenizer, chatty, with_system) -> None:
    counts = {"turn_tokens": [], "examples": 5, "with_system_text": 3}
    plain = {"form": PLAIN, "template_digest": None, "template_left_out": False, **counts}
    chat = {"form": CHAT, "template_digest": digest_of(TEMPLATE), "template_left_out": False, **counts}
    assert describe_prompts(tokenizer, with_system) == plain
    assert describe_prompts(chatty, with_system) == chat
    left_out = describe_prompts(chatty, with_system, chat_template=False)
    assert left_out == plain | {"template_left_out": True}
    assert "left out (--no-chat-template)" in cautions(left_out)[0]
    assert "chat_template.jinja" not in cautions(left_out)[0]


def test_system_text_as_plain_text_is_a_caution(tokenizer, chatty, with_system) -> None:
    plain = describe_prompts(tokenizer, with_system)
    assert "system text of 3 of 5 examples" in cautions(plain)[0]
    assert "chat_template.jinja" in prompts_in_words(plain)
    assert cautions(describe_prompts(chatty, with_system)) == []
    assert digest_of(TEMPLATE)[:12] in prompts_in_words(describe_prompts(chatty, with_system))
    without = describe_prompts(tokenizer, with_system[3:])
    assert cautions(without) == []
    assert prompts_in_words(without) == "Prompts are plain text, without a chat template."


@pytest.mark.reliability(kind="bad input", title="a model tuned on chats whose template is missing")
@pytest.mark.parametrize("special", [False, True])
def test_tokens_that_mark_turns_without_a_template_are_a_caution(tokenizer, with_system, special) -> None:
    lost = copy.deepcopy(tokenizer)
    lost.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=special)
    record = describe_prompts(lost, with_system[3:])
    assert record["turn_tokens"] == ["<|im_start|>"]
    (caution,) = cautions(record)
    assert "<|im_start|>" in caution
    assert "base models often share the tokenizer" in caution
    assert "put its chat_template.jinja into the model's folder" in caution
    assert len(cautions(describe_prompts(lost, with_system))) == 2
    lost.chat_template = TEMPLATE
    assert describe_prompts(lost, with_system)["turn_tokens"] == []
    assert cautions(describe_prompts(lost, with_system)) == []


@pytest.mark.parametrize("has_template", [False, True])
def test_attribution_records_the_form_and_warns(
    tokenizer, chatty, with_system, files, tmp_path, has_template
) -> None:
    save_model(tiny_qwen2(len(tokenizer)), chatty if has_template else tokenizer, tmp_path / "model")
    train = tmp_path / "train.jsonl"
    write_jsonl(train, with_system)
    options = Options(
        model=str(tmp_path / "model"),
        train=train,
        target=files / "target.jsonl",
        out=tmp_path / "out",
        method="graddot",
        levels=("example",),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InfraWarning)
        attribute(options, progress=False)
    told = [str(w.message) for w in caught if issubclass(w.category, InfraWarning)]
    assert any("Without a chat template the system text of 3" in text for text in told) != has_template
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert record["prompts"]["form"] == (CHAT if has_template else PLAIN)
    assert record["prompts"]["with_system_text"] == 3


def test_fine_tuning_records_the_form_and_warns(model_folder, with_system, tmp_path) -> None:
    train = tmp_path / "train.jsonl"
    write_jsonl(train, with_system)
    options = FinetuneOptions(
        model=str(model_folder),
        train=train,
        out=tmp_path / "out",
        config=FinetuneConfig(epochs=1, batch_size=4),
        device="cpu",
    )
    with pytest.warns(InfraWarning, match="system text of 3 of 5 examples"):
        folder = finetune_files(options, progress=False)
    assert json.loads((folder / "run.json").read_text())["prompts"]["form"] == PLAIN
