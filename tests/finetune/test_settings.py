"""Settings that cannot be are named before anything is loaded; the state's size is what is documented."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import tiny_qwen2

from infra_lib.errors import ModelError, ParameterError
from infra_lib.examples import Example
from infra_lib.finetune import FinetuneConfig, finetune
from infra_lib.finetune.memory import lora_parameters, state_bytes
from infra_lib.models import prompt_tokens


@pytest.mark.reliability(kind="bad input", title="a setting of a training that cannot be")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "bf16"}, "precision is 'bf16'.*float32, tf32, bfloat16, float16"),
        ({"precision": "float16"}, "float32 or bfloat16 on a CPU"),
        ({"attention": "flash"}, "attention is 'flash'"),
        ({"attention": "flash_attention_2"}, "CUDA device"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"gradient_accumulation": 0}, "gradient_accumulation is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"warmup_fraction": 1.5}, "warmup_fraction is 1.5"),
        ({"lora_rank": -1}, "lora_rank is -1"),
        ({"lora_targets": ()}, "lora_targets"),
        ({"fsdp": True}, "fsdp is True.*false on a CPU"),
        ({"batch_size": 2, "gradient_accumulation": 4}, "batch_size is 2.*at least 4"),
    ],
)
def test_a_setting_that_cannot_be_is_named(change, message) -> None:
    with pytest.raises(ParameterError, match=message):
        dataclasses.replace(FinetuneConfig(), **change).check()


@pytest.mark.reliability(kind="bad input", title="a device that is not there")
def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ParameterError, match="CUDA_VISIBLE_DEVICES"):
        FinetuneConfig().check(device="cuda:3")
    if not torch.cuda.is_available():
        with pytest.raises(ParameterError, match="no CUDA device"):
            FinetuneConfig().check(device="cuda")


@pytest.mark.reliability(kind="bad input", title="fewer examples in a batch than processes")
def test_a_batch_must_feed_every_process() -> None:
    FinetuneConfig(batch_size=8).check(processes=8)
    with pytest.raises(ParameterError, match=r"one example per process \(9\)"):
        FinetuneConfig(batch_size=8).check(processes=9)


@pytest.mark.reliability(kind="bad input", title="a training that needs a chat template, without one")
def test_a_missing_chat_template_is_named_before_training(model_folder, splits, tmp_path, tokenizer) -> None:
    config = FinetuneConfig(epochs=1, batch_size=4, chat_template=True)
    with pytest.raises(ModelError, match="no chat template"):
        finetune(model_folder, splits.train[:4], config, seed=0, folder=tmp_path / "a", progress=False)
    assert not any(tmp_path.iterdir())
    example = Example("a", "math", "2 + 2?", "4")
    assert prompt_tokens(tokenizer, example) == list(tokenizer(example.prompt).input_ids)


def test_what_the_context_cuts_off_is_recorded(model_folder, splits, tmp_path) -> None:
    import json

    config = FinetuneConfig(epochs=1, batch_size=4, max_tokens=80)
    folder = finetune(model_folder, splits.train[:8], config, seed=0, folder=tmp_path / "a", progress=False)
    record = json.loads((folder / "run.json").read_text())
    assert record["truncated_examples"] > 0
    assert record["truncated_tokens"] > record["truncated_examples"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_state_takes_the_bytes_that_are_documented(model_folder, splits, tmp_path, precision, monkeypatch):
    from infra_lib.finetune import run

    sizes = {}
    original = run.train_quietly

    def measuring(trainer, work, **options):
        result = original(trainer, work, **options)
        state = trainer.optimizer.optimizer.state.values()
        sizes["moments"] = sum(t.nbytes for s in state for name, t in s.items() if name.startswith("exp_avg"))
        sizes["parameters"] = sum(p.nbytes for p in trainer.model.parameters())
        sizes["count"] = sum(p.numel() for p in trainer.model.parameters())
        return result

    monkeypatch.setattr(run, "train_quietly", measuring)
    config = FinetuneConfig(epochs=1, batch_size=4, precision=precision)
    finetune(model_folder, splits.train[:4], config, seed=0, folder=tmp_path / "a", progress=False)
    expected = state_bytes(sizes["count"], config)
    assert expected["parameters"] == sizes["parameters"]
    assert expected["moments"] == sizes["moments"]
    assert expected["total"] == 16 * sizes["count"]


def test_adapters_and_shares_take_less() -> None:
    lora = FinetuneConfig(lora_rank=8, precision="bfloat16")
    trained = lora_parameters([(64, 32), (32, 64)], rank=8)
    assert trained == 8 * 96 * 2
    assert state_bytes(10_000, lora, trained=trained)["total"] == 2 * 10_000 + 16 * trained
    sharded = dataclasses.replace(FinetuneConfig(), fsdp=True)
    assert state_bytes(8_000, sharded, processes=8)["total"] == 16_000


def test_bfloat16_and_gradient_checkpointing_train_nearly_and_exactly_the_same(
    model_folder, splits, tmp_path
) -> None:
    from safetensors.torch import load_file

    config = FinetuneConfig(epochs=1, batch_size=8, learning_rate=1e-2)
    changes = {"plain": {}, "half": {"precision": "bfloat16"}, "again": {"gradient_checkpointing": True}}
    found = {}
    for name, change in changes.items():
        folder = finetune(
            model_folder,
            splits.train[:16],
            dataclasses.replace(config, **change),
            seed=0,
            folder=tmp_path / name,
            progress=False,
        )
        found[name] = load_file(folder / "model.safetensors")
    plain = found["plain"]
    start = dict(tiny_qwen2(plain["model.embed_tokens.weight"].shape[0]).named_parameters())
    for key, tensor in plain.items():
        assert found["half"][key].dtype == torch.float32
        assert torch.allclose(found["again"][key], tensor, atol=1e-5)
    moved = torch.cat([(plain[k] - start[k]).flatten() for k in plain]).detach()
    apart = torch.cat([(plain[k] - found["half"][k]).flatten() for k in plain])
    assert 0 < apart.norm() < 0.5 * moved.norm()
