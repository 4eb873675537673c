"""Adapters: merged they are the trained model; targets that match nothing are named."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from conftest import tiny_qwen2

from infra_lib.errors import ParameterError
from infra_lib.finetune import FinetuneConfig, finetune
from infra_lib.finetune.lora import add_lora
from infra_lib.models import encode, load_model, mlp_linears

CONFIG = FinetuneConfig(epochs=2, batch_size=8, learning_rate=1e-2, lora_rank=4)


@pytest.fixture(scope="module")
def trained(model_folder, splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "run"
    return finetune(model_folder, splits.train[:16], CONFIG, seed=0, folder=folder, progress=False)


def test_the_merged_model_is_the_base_with_its_adapters(trained, model_folder, tokenizer, splits) -> None:
    from peft import PeftModel

    ids = encode(tokenizer, splits.test[0]).input_ids[None]
    merged = load_model(trained)
    adapted = PeftModel.from_pretrained(load_model(model_folder), str(trained / "adapter")).eval()
    with torch.no_grad():
        logits = merged(ids).logits
        assert torch.allclose(logits, adapted(ids).logits, atol=1e-4)
        assert not torch.allclose(logits, load_model(model_folder)(ids).logits, atol=1e-2)


def test_the_result_is_a_plain_model_whose_layers_can_be_attributed(trained, model_folder) -> None:
    assert list(mlp_linears(load_model(trained))) == list(mlp_linears(load_model(model_folder)))


def test_adapters_name_their_base_and_only_they_were_trained(trained, model_folder) -> None:
    config = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model_folder)
    record = json.loads((trained / "run.json").read_text())
    model = load_model(model_folder)
    layers = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
    assert record["parameters_trained"] == sum(4 * sum(layer.weight.shape) for layer in layers)


def test_no_file_of_a_run_is_a_pickle(trained) -> None:
    assert not [p for p in trained.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]


@pytest.mark.reliability(kind="bad input", title="adapters for layers that are not there")
@pytest.mark.parametrize("targets", [("q_proj", "query"), ("proj",)])
def test_a_target_that_names_no_layer_is_named_with_those_that_there_are(tokenizer, targets) -> None:
    config = FinetuneConfig(lora_rank=2, lora_targets=targets)
    with pytest.raises(ParameterError, match=rf"lora_targets is '{targets[-1]}'.*down_proj, gate_proj"):
        add_lora(tiny_qwen2(len(tokenizer)), config)


def test_named_targets_alone_get_adapters(tokenizer) -> None:
    config = FinetuneConfig(lora_rank=2, lora_targets=("q_proj", "v_proj"))
    model = add_lora(tiny_qwen2(len(tokenizer)), config)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable
    assert all("q_proj" in name or "v_proj" in name for name in trainable)


@pytest.mark.reliability(kind="bad input", title="adapters without the package that makes them")
def test_without_peft_the_install_command_is_named(model_folder, splits, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ParameterError, match="pip install"):
        finetune(model_folder, splits.train[:8], CONFIG, seed=0, folder=tmp_path / "a", progress=False)
    assert not any(tmp_path.iterdir())
