"""Base models: a tiny one is trained for real, and the kept ones are the recorded ones."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from infra_lib.device import tf32_products
from infra_lib.errors import ModelError, ParameterError
from infra_lib.files import file_digest
from infra_lib.finetune import train_quietly
from infra_lib.models import check_model_folder, load_model, load_tokenizer
from infra_lib.pretrain import PretrainConfig, architecture, pack, pretrain, verify_base
from infra_lib.runner import declared_parameters
from infra_lib.sources.small_world import train_tokenizer
from infra_lib.study import Study, make_study

TINY = PretrainConfig(
    tokens=25_000, hidden=32, layers=1, heads=2, intermediate=48, block=128, batch=4, warmup_steps=5
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return pretrain(TINY, 0, tmp_path_factory.mktemp("base") / "seed0", progress=False)


def test_loss_falls_and_provenance_is_complete(tiny) -> None:
    record = verify_base(tiny)
    curve = [point["loss"] for point in record["curve"]]
    assert curve[-1] < 0.85 * curve[0]
    assert record["config"]["tokens"] == 25_000
    assert record["environment"]["versions"]["torch"]
    assert record["weights_sha256"] == file_digest(tiny / "model.safetensors")


def test_the_base_is_a_qwen2_with_the_worlds_tokenizer(tiny, tokenizer) -> None:
    model = load_model(tiny)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.config.vocab_size == len(load_tokenizer(tiny)) == len(tokenizer)
    assert not list(tiny.glob("*.bin"))


def test_same_seed_same_weights_and_another_seed_others(tiny, tmp_path) -> None:
    again = pretrain(TINY, 0, tmp_path / "again", progress=False)
    other = pretrain(TINY, 1, tmp_path / "other", progress=False)
    assert verify_base(again)["weights_sha256"] == verify_base(tiny)["weights_sha256"]
    assert verify_base(other)["weights_sha256"] != verify_base(tiny)["weights_sha256"]


def test_blocks_are_full_and_documents_end_with_the_end_token(tokenizer) -> None:
    blocks = pack(TINY, 3, tokenizer)
    assert blocks.shape[1] == TINY.block
    assert abs(blocks.numel() - TINY.tokens) < TINY.tokens * 0.02
    assert (blocks == tokenizer.eos_token_id).sum() > 50
    assert not (blocks == tokenizer.unk_token_id).any()
    assert not torch.equal(blocks[:5], pack(TINY, 4, tokenizer)[:5])


@pytest.mark.reliability(kind="fault", title="a missing base model, or one with a changed byte")
def test_torn_and_missing_bases_are_named(tiny, tmp_path) -> None:
    with pytest.raises(ModelError, match="holds no complete base model"):
        verify_base(tmp_path / "none")
    torn = tmp_path / "torn"
    shutil.copytree(tiny, torn)
    content = bytearray((torn / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (torn / "model.safetensors").write_bytes(bytes(content))
    with pytest.raises(ModelError, match="not the file that was recorded"):
        verify_base(torn)
    # By whatever way it is asked for: `infra attribute --model` takes any folder.
    with pytest.raises(ModelError, match=r"model\.safetensors is missing or torn, or was changed"):
        check_model_folder(torn)
    check_model_folder(tiny)


@pytest.mark.reliability(kind="bad input", title="a base model of too few tokens")
def test_too_few_tokens_are_refused(tmp_path) -> None:
    with pytest.raises(ParameterError, match="pretrain_tokens"):
        pretrain(PretrainConfig(tokens=10), 0, tmp_path / "x")


def test_kept_bases_are_whole_small_and_speak_todays_tokens(root, tokenizer) -> None:
    folders = sorted((root / "records" / "base").glob("seed*"))
    assert len(folders) == 2
    for folder in folders:
        record = verify_base(folder)
        assert not record["environment"]["commit"].endswith("+changes")
        assert load_tokenizer(folder).get_vocab() == tokenizer.get_vocab()
        assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen2"
        assert 400_000 <= record["parameters"] <= 3_000_000
    assert sum(path.stat().st_size for path in (root / "records" / "base").rglob("*.safetensors")) < 8e6


def test_a_text_read_twice_is_as_many_steps_again(tmp_path) -> None:
    folder = pretrain(replace(TINY, epochs=2), 0, tmp_path / "seed0", progress=False)
    once = pack(TINY, 0, train_tokenizer())
    record = verify_base(folder)
    assert record["tokens"] == 2 * once.numel()
    assert record["steps"] == 2 * -(-len(once) // TINY.batch)


@pytest.mark.reliability(kind="bad input", title="a base model of a size that cannot be")
def test_a_study_gives_its_base_models_their_size() -> None:
    study = make_study(
        {"pretrain_hidden": 128, "pretrain_heads": 4, "pretrain_layers": 2, "retrain_base": True}
    )
    made = architecture(study.pretrain_config(), train_tokenizer())
    assert (made.hidden_size, made.num_attention_heads, made.num_hidden_layers) == (128, 4, 2)
    with pytest.raises(
        ParameterError, match=r"pretrain_hidden.*100.*an even multiple of pretrain_heads \(3\)"
    ):
        make_study({"pretrain_hidden": 100})
    with pytest.raises(ParameterError, match=r"precision.*'tf32'.*float32 or bfloat16 on a CPU"):
        make_study({"precision": "tf32"}).finetune_config().check(device="cpu")


def test_tf32_is_switched_for_a_training_and_back() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with tf32_products(True):
        assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32 == before
    with tf32_products(False):
        assert torch.backends.cuda.matmul.allow_tf32 == before


@pytest.mark.parametrize(("precision", "on"), [("tf32", True), ("float32", False), ("bfloat16", False)])
def test_a_training_multiplies_as_it_was_told(tmp_path, precision: str, on: bool) -> None:
    seen = []
    trainer = SimpleNamespace(
        remove_callback=lambda kind: None,
        add_callback=lambda callback: None,
        train=lambda resume_from_checkpoint: seen.append(torch.backends.cuda.matmul.allow_tf32),
    )
    train_quietly(trainer, tmp_path, precision=precision)
    assert seen == [on]


def test_the_notebook_passes_on_all_that_pretraining_reads() -> None:
    root = Path(__file__).resolve().parents[1]
    read = set(re.findall(r"self\.(\w+)", inspect.getsource(Study.pretrain_config)))
    assert {"precision", "pretrain_hidden", "pretrain_epochs"} <= read
    assert read <= set(declared_parameters(root, "02_base_model"))


@pytest.mark.reliability(kind="fault", title="a pretraining cut off and begun again otherwise")
def test_another_setting_is_not_continued(tiny, tmp_path, monkeypatch) -> None:
    works = []

    def stop(trainer, work, **options):
        works.append(work.name)
        raise KeyboardInterrupt

    monkeypatch.setattr("infra_lib.pretrain.train_quietly", stop)
    for config in (TINY, TINY, replace(TINY, learning_rate=1e-4)):
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, 0, tmp_path / "seed0", progress=False)
    assert works[0] == works[1] != works[2]
