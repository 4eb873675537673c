"""No model folder crashes the loaders: a model, a tokenizer, or an error that names the folder's fault."""

from __future__ import annotations

import contextlib
import json
import shutil

import pytest
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from trials import JSON, Trials, damaged

from infra_lib.errors import ModelError
from infra_lib.models import check_model_folder, load_model, load_tokenizer


@pytest.fixture
def folder(model_folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(model_folder, copy)
    return copy


def fuzz(title: str):
    return pytest.mark.reliability(kind="fuzz", title=title)


def try_loading(load, folder) -> None:
    with contextlib.suppress(ModelError):
        load(folder)


@fuzz("model folders: damaged weights")
def test_damaged_weights_are_a_model_or_a_named_error(request, folder) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try_loading(check_model_folder, folder)

    trials = Trials(request)
    trials.search(damaged(content[:header]).map(lambda head: head + content[header:]), check, 150)
    huge = (2**63 - 1).to_bytes(8, "little") + content[8:]
    trials.each([b"", content[:5], content[:-1], huge, b"\0" * 8, b"{}", b"PK\3\4" * 9], check)
    check(content)
    load_model(folder)


@fuzz("model folders: damaged config.json, and any value in it")
def test_any_configuration_is_a_model_or_a_named_error(request, folder) -> None:
    path = folder / "config.json"
    content = path.read_bytes()
    config = json.loads(content)
    # Whole numbers stay small: what a huge one asks for is tried below, in bounded ways.
    value = (
        st.none() | st.booleans() | st.integers(-3, 40) | st.text(max_size=8) | st.lists(st.integers(0, 3))
    )
    changes = st.dictionaries(st.sampled_from(sorted(config)), value, min_size=1, max_size=2)

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try_loading(load_model, folder)

    trials = Trials(request)
    trials.search(damaged(content), check, 30)
    trials.search(changes.map(lambda change: json.dumps(config | change).encode()), check, 60)
    trials.search(JSON.map(lambda value: json.dumps(value).encode()), check, 20)
    trials.each([b"", b"[" * 100_000, b"9" * 10_000, b"\xff\xfe", b"null", b"[]"], check)


@fuzz("model folders: damaged tokenizer.json and tokenizer_config.json")
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_any_tokenizer_file_is_a_tokenizer_or_a_named_error(request, folder, name: str) -> None:
    path = folder / name
    content = path.read_bytes()

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try_loading(load_tokenizer, folder)

    trials = Trials(request)
    trials.search(damaged(content[:400]).map(lambda head: head + content[400:]), check, 40)
    trials.search(JSON.map(lambda value: json.dumps(value).encode()), check, 20)
    trials.each([b"", b"[" * 100_000, b"9" * 10_000, b"\xff\xfe", b"null", b"[]", b"{}"], check)


def changed(folder, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.reliability(kind="bad input", title="a configuration that asks for more than the folder stores")
@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**5000},
        {"hidden_size": 10**12},
        {"vocab_size": 2**62},
        {"head_dim": 10**10},
        {"intermediate_size": 10**15},
        {"num_attention_heads": 10**9},
    ],
)
def test_a_huge_configuration_is_refused_before_memory_is_asked_for(folder, values) -> None:
    import sys

    sys.set_int_max_str_digits(0)
    try:
        changed(folder, **values)
    finally:
        sys.set_int_max_str_digits(4300)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(folder)


def tensors_with(folder, change) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.reliability(kind="bad input", title="weights of another shape, of another model, or missing")
@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop(NAME),
        lambda tensors: tensors.update({NAME: tensors[NAME][:, :-1].contiguous()}),
        lambda tensors: tensors.update({NAME: tensors[NAME].reshape(-1)}),
        lambda tensors: tensors.update({NAME: tensors[NAME] * float("nan")}),
        lambda tensors: tensors.update({NAME: tensors[NAME] / 0}),
        lambda tensors: tensors.clear(),
        lambda tensors: tensors.update({f"other.{name}": tensors.pop(name) for name in list(tensors)}),
    ],
    ids=["missing", "narrower", "flat", "NaN", "infinite", "none at all", "other names"],
)
def test_weights_that_do_not_fit_are_refused(folder, change) -> None:
    tensors_with(folder, change)
    with pytest.raises(ModelError):
        load_model(folder)


def test_weights_of_another_precision_are_loaded(folder) -> None:
    import torch

    tensors_with(folder, lambda tensors: tensors.update({NAME: tensors[NAME].to(torch.bfloat16)}))
    assert load_model(folder).get_parameter(NAME).dtype == torch.float32


@pytest.mark.reliability(kind="bad input", title="a chat template that fails")
@pytest.mark.parametrize(
    "template",
    [
        "{{ 1/0 }}",
        "{% if %}",
        "{{ raise_exception('no') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    ],
)
def test_a_chat_template_that_fails_or_reaches_out_is_a_named_error(tokenizer, template: str) -> None:
    import copy

    from infra_lib.examples import Example
    from infra_lib.models import encode

    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    with pytest.raises(ModelError, match="chat template refuses"):
        encode(own, Example("a", "math", "Find x.", "So it is 4."))
