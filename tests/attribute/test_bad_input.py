"""Whatever cannot be used is named, file and line or tensor, before anything is fitted."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_qwen2
from running import ALL, options, provenance, run, scores
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from infra_lib.attribute import METHODS, score
from infra_lib.attribute import run as running_module
from infra_lib.attribute.inputs import read_inputs
from infra_lib.attribute.write import check_table
from infra_lib.checksums import write_checksum
from infra_lib.cli import app
from infra_lib.errors import DataError, InfraError, ModelError, ParameterError
from infra_lib.models import load_tokenizer, save_model
from infra_lib.reweight.command import ReweightOptions, reweight_files

GOOD = {"id": "new", "domain": "math", "prompt": "p", "response": "So the answer is 4."}


def bad(title: str) -> pytest.MarkDecorator:
    return pytest.mark.reliability(kind="bad input", title=title)


def one_bit_off(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.fixture
def nothing_heavy(monkeypatch):
    """Fail where a gradient or factor would be computed."""
    for name in ("fit_factors", "target_gradient"):
        monkeypatch.setattr(score, name, lambda *_, **__: pytest.fail("heavy work began"))


def without(key: str) -> bytes:
    return json.dumps({k: v for k, v in GOOD.items() if k != key}).encode()


def changed(**change) -> bytes:
    return json.dumps(GOOD | change).encode()


BAD_LINES = {
    "empty response": (changed(response="  "), "response is empty"),
    "over the context": (changed(response="word " * 600), r"has \d+ tokens, over the model's context of 512"),
    "id twice": (changed(id="train-math-1-0000"), "id 'train-math-1-0000' occurs twice"),
    "no target": (changed(domain="chat"), "domain 'chat' has no target: .* has code, math"),
    "no id": (without("id"), "misses id"),
    "no domain": (without("domain"), "misses domain"),
    "no prompt": (without("prompt"), "misses prompt"),
    "no response": (without("response"), "misses response"),
    "null prompt": (changed(prompt=None), "prompt is null"),
    "number as id": (changed(id=7), "id is 7; it must be text"),
    "list as response": (changed(response=["a"]), "response is .* it must be text"),
    "difficulty of 9": (changed(difficulty=9), "difficulty is 9"),
    "difficulty as text": (changed(difficulty="hard"), "difficulty is 'hard'"),
    "a span outside": (changed(sentences=[[0, 99, None]]), "does not lie in the response"),
    "no object": (b"[1, 2]", "must be a JSON object"),
    "half a line": (b'{"id": "new", "dom', "not a JSON object"),
    "a bare word": (b"hello", "not a JSON object"),
    "no UTF-8": (b'{"id": "\xff"}', "invalid UTF-8 at byte 8"),
    "a byte order mark": (b"\xef\xbb\xbf" + changed(), "not a JSON object"),
    "half a surrogate": (changed(response="\ud800"), "half a surrogate"),
}


# A domain of the target file is a target, and its ids are its own.
@bad("infra attribute: one bad line of each kind")
@pytest.mark.parametrize(
    ("file", "case"),
    [("train", case) for case in BAD_LINES]
    + [("target", case) for case in BAD_LINES if case not in ("no target", "id twice")],
)
@pytest.mark.usefixtures("nothing_heavy")
def test_a_bad_line_is_named_before_anything_heavy(model_folder, files, tmp_path, case, file) -> None:
    line, problem = BAD_LINES[case]
    for name in ("train", "target"):
        shutil.copy(files / f"{name}.jsonl", tmp_path)
    lines = (tmp_path / f"{file}.jsonl").read_bytes().count(b"\n")
    with (tmp_path / f"{file}.jsonl").open("ab") as stream:
        stream.write(line + b"\n")
    with pytest.raises(DataError, match=problem) as caught:
        run(model_folder, tmp_path, tmp_path / "out")
    assert caught.value.line == lines + 1
    assert caught.value.path == tmp_path / f"{file}.jsonl"


@bad("infra attribute --skip-bad: a file of bad lines")
def test_skip_bad_goes_on_and_lists_every_line_of_both_files(model_folder, files, tmp_path) -> None:
    wrong = [line for case, (line, _) in BAD_LINES.items() if case not in ("no target", "id twice")]
    expected, counts = [], {}
    for name in ("target", "train"):
        good = (files / f"{name}.jsonl").read_bytes()
        counts[name] = good.count(b"\n")
        (tmp_path / f"{name}.jsonl").write_bytes(good + b"\n".join(wrong) + b"\n")
        expected += [(f"{tmp_path}/{name}.jsonl", counts[name] + 1 + i) for i in range(len(wrong))]
    out = run(model_folder, tmp_path, tmp_path / "out", skip_bad=True, method="identity")
    skipped = [json.loads(text) for text in (out / "skipped.jsonl").read_text().splitlines()]
    assert [(entry["file"], entry["line"]) for entry in skipped] == expected
    assert all(set(entry) == {"file", "line", "problem"} and entry["problem"] for entry in skipped)
    clean = run(model_folder, files, tmp_path / "clean", skip_bad=True, method="identity")
    assert np.allclose(scores(out), scores(clean), rtol=1e-4)
    assert (clean / "skipped.jsonl").read_text() == ""


@bad("infra attribute: a file without an example")
@pytest.mark.parametrize("file", ["train", "target"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "holds no example"),
        (b"\n \n", "holds no example"),
        (None, "no such file"),
        (b"x\n", "leaves no"),
    ],
)
def test_files_without_an_example_are_named(model_folder, files, tmp_path, file, content, problem) -> None:
    for name in ("train", "target"):
        shutil.copy(files / f"{name}.jsonl", tmp_path)
    path = tmp_path / f"{file}.jsonl"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        run(model_folder, tmp_path, tmp_path / "out", skip_bad=True)
    assert caught.value.path == path
    if content == b"x\n":
        assert "the first of 1 that were skipped:" in str(caught.value)
        assert "line 1" in str(caught.value)


@bad("infra attribute: a model without MLP linears")
@pytest.mark.usefixtures("nothing_heavy")
def test_a_model_without_mlp_linears_is_refused(tokenizer, files, tmp_path, monkeypatch) -> None:
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, bos_token_id=1, eos_token_id=1
    )
    save_model(GPT2LMHeadModel(config), tokenizer, tmp_path / "model")
    load = running_module.load_model

    def headless(*arguments, **settings):
        model = load(*arguments, **settings)
        del model.transformer.h[0].mlp
        return model

    monkeypatch.setattr(running_module, "load_model", headless)
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel has no linear layer in an MLP; .*c_attn"):
        run(tmp_path / "model", files, tmp_path / "out")


@bad("infra attribute: weights that are not finite")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.usefixtures("nothing_heavy")
def test_weights_that_are_not_finite_are_named(tokenizer, files, tmp_path, value) -> None:
    broken = tiny_qwen2(len(tokenizer))
    with torch.no_grad():
        broken.model.layers[1].input_layernorm.weight[0] = value
    save_model(broken, tokenizer, tmp_path / "model")
    with pytest.raises(ModelError, match=r"layers\.1\.input_layernorm\.weight holds values that are not"):
        run(tmp_path / "model", files, tmp_path / "out")


@bad("infra attribute: a torn model")
@pytest.mark.usefixtures("nothing_heavy")
def test_torn_models_are_named(model_folder, files, tmp_path) -> None:
    for name, content in (("model.safetensors", b"torn"), ("config.json", b"{")):
        folder = tmp_path / name
        shutil.copytree(model_folder, folder)
        (folder / name).write_bytes(content)
        with pytest.raises(ModelError, match=name):
            run(folder, files, tmp_path / "out")


@bad("infra attribute: a configuration of no known model")
@pytest.mark.usefixtures("nothing_heavy")
def test_a_configuration_of_no_known_model_is_named(model_folder, files, tmp_path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    for kind in ("no_such_model", None):
        changed = {k: v for k, v in config.items() if k != "model_type"} | (
            {"model_type": kind} if kind else {}
        )
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ModelError, match=f"no configuration of {folder}|cannot load"):
            run(folder, files, tmp_path / "out")


@bad("infra attribute: a tokenizer of another model")
@pytest.mark.usefixtures("nothing_heavy")
def test_a_tokenizer_of_another_model_is_named(tokenizer, files, tmp_path) -> None:
    save_model(tiny_qwen2(50), tokenizer, tmp_path / "model")
    with pytest.raises(ModelError, match=r"gives token \d+, and the model .* has tokens 0 to 49"):
        run(tmp_path / "model", files, tmp_path / "out")


@bad("infra attribute: torn, changed or foreign factors")
def test_unusable_factors_are_named_before_a_gradient(model_folder, files, tmp_path, monkeypatch) -> None:
    out = run(model_folder, files, tmp_path, memory="12kB")
    stored = sorted((out / "factors").glob("*.safetensors"))
    assert len(stored) > 1
    monkeypatch.setattr(score, "target_gradient", lambda *_, **__: pytest.fail("heavy work began"))
    last = stored[-1].read_bytes()
    stored[0].unlink()  # would be fitted first, were the torn one not looked at before
    stored[-1].write_bytes(last[: len(last) // 2])
    with pytest.raises(DataError, match="torn factor file") as caught:
        run(model_folder, files, tmp_path, memory="12kB")
    assert caught.value.path == stored[-1]
    assert not stored[0].exists()
    stored[-1].write_bytes(last)
    with safe_open(stored[-1], framework="pt") as opened:
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    save_file(tensors, stored[-1], metadata={"key": "of another model", "checks": "{}"})
    write_checksum(stored[-1])
    with pytest.raises(ModelError, match=f"{stored[-1].name} holds factors of another model"):
        run(model_folder, files, tmp_path, memory="12kB")


@bad("infra attribute: factors of another model")
def test_factors_of_another_model_are_left_alone(model_folder, tokenizer, files, tmp_path) -> None:
    save_model(tiny_qwen2(len(tokenizer), seed=3), tokenizer, tmp_path / "other")
    fresh = run(tmp_path / "other", files, tmp_path / "fresh")
    run(model_folder, files, tmp_path / "used")
    assert scores(run(tmp_path / "other", files, tmp_path / "used")).equals(scores(fresh))


@pytest.mark.reliability(kind="fault", title="infra attribute: one byte of each file of results changed")
def test_a_changed_byte_of_any_result_is_found(model_folder, files, tmp_path, record_property) -> None:
    out = run(model_folder, files, tmp_path / "out", levels=ALL, self_influence=True)
    runner, command = CliRunner(), ["verify", "--folder", str(out)]
    whole = runner.invoke(app, command)
    assert whole.exit_code == 0, whole.output
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    assert len(paths) >= 7
    for path in paths:
        before = path.read_bytes()
        path.write_bytes(one_bit_off(before))
        found = runner.invoke(app, command)
        assert found.exit_code == 1
        assert path.name.removesuffix(".sha256") in found.output
        path.write_bytes(before)
    (out / "tokens.parquet").unlink()
    assert "tokens.parquet is missing" in runner.invoke(app, command).output
    record_property("inputs", len(paths))
    record_property("outcome", "infra verify --folder names each of them")


def test_what_an_earlier_run_wrote_stays_recorded_where_it_was_asked_the_same(
    model_folder, files, tmp_path
) -> None:
    for levels in (("token",), ("example",)):
        out = run(model_folder, files, tmp_path / "out", levels=levels, method="graddot")
    assert set(provenance(out)["files"]) == {"examples.parquet", "tokens.parquet"}
    run(model_folder, files, out, levels=("token",), method="gradcos")
    assert set(provenance(out)["files"]) == {"tokens.parquet"}
    found = CliRunner().invoke(app, ["verify", "--folder", str(out)])
    assert found.exit_code == 1
    assert "examples.parquet is not recorded: it is of another run" in found.output
    with pytest.raises(DataError, match="is of another run than provenance"):
        check_table(out / "examples.parquet")


def test_tables_of_other_weights_at_the_same_place_are_not_kept(
    model_folder, tokenizer, files, tmp_path
) -> None:
    for seed, levels in ((0, ("token",)), (1, ("example",))):
        save_model(tiny_qwen2(len(tokenizer), seed=seed), tokenizer, tmp_path / "model")
        out = run(tmp_path / "model", files, tmp_path / "out", levels=levels, method="graddot")
    assert set(provenance(out)["files"]) == {"examples.parquet"}


def test_scores_of_a_version_without_checksums_are_used_and_not_called_torn(
    model_folder, files, tmp_path
) -> None:
    out = run(model_folder, files, tmp_path / "out", method="graddot")
    record = provenance(out)
    (out / "provenance.json").write_text(
        json.dumps({k: v for k, v in record.items() if k not in ("files", "sha256")})
    )
    check_table(out / "examples.parquet")
    assert "kept no checksums" in CliRunner().invoke(app, ["verify", "--folder", str(out)]).output


@bad("infra reweight: scores that were changed since infra attribute wrote them")
@pytest.mark.parametrize("name", ["examples.parquet", "provenance.json"])
def test_an_arm_is_not_built_from_changed_scores(model_folder, files, tmp_path, name) -> None:
    out = run(model_folder, files, tmp_path / "out", method="graddot")
    asked = ReweightOptions(files / "train.jsonl", tmp_path / "arm.jsonl", arm="influence", scores=out)
    reweight_files(replace(asked, out=tmp_path / "good.jsonl"))
    before = (out / name).read_bytes()
    (out / name).write_bytes(one_bit_off(before))
    with pytest.raises(DataError, match="is torn, or was changed"):
        reweight_files(asked)
    assert not asked.out.exists()


class GatedRepoError(Exception):
    pass


class RepositoryNotFoundError(Exception):
    pass


@bad("infra attribute: a hub name that is gated, absent or out of reach")
@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (GatedRepoError("403"), "is gated: accept its terms on its page and set HF_TOKEN"),
        (RepositoryNotFoundError("404"), "is not on the hub, or is private"),
        (ConnectionError("no route"), "the hub cannot be reached from here; or run `hf download"),
    ],
    ids=["gated", "absent", "no network"],
)
@pytest.mark.usefixtures("nothing_heavy")
def test_a_hub_name_that_gives_no_model_says_what_to_do(files, tmp_path, monkeypatch, cause, words) -> None:
    def refuse(*_args, **_options):
        raise OSError("We could not load the files.\nSecond line") from cause

    monkeypatch.setattr("infra_lib.pretrained.model_config", refuse)
    with pytest.raises(ModelError, match=words):
        run("nobody/nothing", files, tmp_path / "out")


@bad("infra attribute: a file where results should go")
@pytest.mark.parametrize("path", ["out", "out/below"])
@pytest.mark.usefixtures("nothing_heavy")
def test_an_out_that_is_a_file_is_named(model_folder, files, tmp_path, path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ParameterError, match=r"--out is .*: it must be a folder that can be written"):
        run(model_folder, files, tmp_path / path)
    assert (tmp_path / "out").read_text() == "mine"


def test_typos_name_the_choices() -> None:
    base = ["attribute", "--model", "m", "--train", "t", "--target", "t", "--out", "o"]
    for argument, choices in (
        (["--method", "ekfak"], ", ".join(METHODS)),
        (["--levels", "example,tokens"], "example,sentence,token"),
        (["--levels", ","], "example,sentence,token"),
        (["--reading", "both"], "loss, position"),
        (["--normalise", "max"], "none, length, sqrt_length, self"),
        (["--labels", "true"], "sampled, empirical"),
        (["--dtype", "fp16"], "float32, bfloat16, float16"),
    ):
        caught = CliRunner().invoke(app, [*base, *argument]).exception
        assert isinstance(caught, InfraError)
        assert argument[0] in str(caught)
        assert choices in str(caught)


TEMPLATES = {
    "plain": "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}",
    "empty": "",
    "with a generation prompt": "{{ messages[0].content }}{% if add_generation_prompt %} A:{% endif %}",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_chat_templates_wrap_the_prompt(model_folder, tokenizer, files, tmp_path, template) -> None:
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = TEMPLATES[template]
    save_model(tiny_qwen2(len(tokenizer)), chatty, tmp_path / "model")
    wrapped = scores(run(tmp_path / "model", files, tmp_path / "out", method="graddot"))
    plain = scores(run(model_folder, files, tmp_path / "plain", method="graddot"))
    assert wrapped.index.equals(plain.index)
    assert np.allclose(wrapped, plain, rtol=1e-3) == (template == "empty")


@bad("infra attribute: a chat template that fails")
@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ raise_exception('a system turn is needed') }}", "a system turn is needed"),
        ("{{ messages[3].content }}", "cannot be put in tokens"),
        ("{% if %}", "cannot be put in tokens"),
    ],
)
@pytest.mark.usefixtures("nothing_heavy")
def test_a_failing_chat_template_is_named(tokenizer, files, tmp_path, template, problem) -> None:
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = template
    save_model(tiny_qwen2(len(tokenizer)), chatty, tmp_path / "model")
    with pytest.raises(DataError, match=problem) as caught:
        run(tmp_path / "model", files, tmp_path / "out")
    assert caught.value.line == 1


def test_a_tokenizer_without_padding_or_end_token_is_used(model_folder, files, tmp_path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            record = json.loads((folder / name).read_text())
            for key in ("pad_token", "eos_token"):
                record.pop(key, None)
            (folder / name).write_text(json.dumps(record))
    assert load_tokenizer(folder).pad_token_id is None
    ours, wanted = (
        scores(run(m, files, tmp_path / name, method="identity"))
        for name, m in (("o", folder), ("w", model_folder))
    )
    assert np.allclose(ours, wanted, rtol=1e-4, atol=1e-6)


def test_a_model_without_a_longest_sequence_takes_any(tokenizer, files, tmp_path) -> None:
    (tmp_path / "train.jsonl").write_bytes(changed(response="word " * 3000) + b"\n")
    inputs = read_inputs(
        tmp_path / "train.jsonl", files / "target.jsonl", tokenizer, context=None, skip_bad=False
    )
    assert inputs.encoded[0].n_tokens >= 3000


def test_an_example_longer_than_a_batch_is_scored_alone(model_folder, files, tmp_path) -> None:
    """Every example is longer than eight tokens, and so is a batch of its own."""
    small = scores(run(model_folder, files, tmp_path / "small", batch_tokens=8))
    large = scores(run(model_folder, files, tmp_path / "large"))
    assert np.allclose(small, large, rtol=1e-4, atol=1e-5 * large.abs().max())


def test_the_first_token_of_a_sequence_is_no_loss_term(model_folder, tokenizer, files, tmp_path) -> None:
    shutil.copy(files / "target.jsonl", tmp_path)
    good = (files / "train.jsonl").read_bytes()
    (tmp_path / "train.jsonl").write_bytes(good + changed(prompt="") + b"\n")
    frame = pd.read_parquet(run(model_folder, tmp_path, tmp_path / "out") / "examples.parquet")
    tokens = len(tokenizer(GOOD["response"], add_special_tokens=False).input_ids)
    prompt = len(tokenizer("").input_ids)
    assert set(frame[frame["id"] == "new"]["n_tokens"]) == {tokens if prompt else tokens - 1}


def test_options_default_to_the_documented_command(model_folder, files, tmp_path) -> None:
    chosen = options(model_folder, files, tmp_path)
    assert (chosen.method, chosen.levels, chosen.reading, chosen.dtype) == (
        "ekfac",
        ("example",),
        "loss",
        "float32",
    )
    assert (chosen.normalise, chosen.labels, chosen.layers, chosen.memory_bytes) == (
        "none",
        "sampled",
        None,
        2 * 2**30,
    )
