"""Answers do not depend on their batch, end where they should, and are kept when a run is cut."""

from __future__ import annotations

import dataclasses
import sys
import types

import numpy as np
import pytest
import torch
from conftest import tiny_qwen2
from scipy import stats

from infra_lib.errors import DataError, InfraError, ModelError, ParameterError
from infra_lib.evaluate.accuracy import evaluate
from infra_lib.evaluate.generate import Sampling, TransformersEngine, VllmEngine, answer, chat_end_tokens
from infra_lib.evaluate.generate.per_row import PerRowSampler
from infra_lib.models import load_tokenizer, save_model
from infra_lib.pass_at_k import pass_at_k_table

TEMPLATE = (
    "{% for turn in messages %}<s>{{ turn.role }}\n{{ turn.content }}<e>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
GREEDY = Sampling(max_new_tokens=12)
WARM = Sampling(max_new_tokens=12, temperature=0.9, top_p=0.95, top_k=50, samples=3, seed=5)


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_qwen2(len(tokenizer), seed=3)


@pytest.fixture
def engine(model, tokenizer):
    return lambda **options: TransformersEngine(model, tokenizer, **options)


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_an_answer_depends_on_neither_batch_nor_neighbours(engine, splits, sampling) -> None:
    problems = splits.test[:10]
    alone = answer(engine(batch_size=1), problems, sampling, progress=False)
    together = answer(engine(batch_tokens=10_000), problems, sampling, progress=False)
    assert alone.equals(together)
    some = answer(engine(batch_tokens=300), problems[7:2:-1], sampling, progress=False)
    expected = alone.set_index(["id", "sample"]).loc[list(zip(some["id"], some["sample"], strict=True))]
    assert some["response"].tolist() == expected["response"].tolist()


def test_rows_say_all_about_an_answer(engine, splits) -> None:
    frame = answer(engine(), splits.test[:4], WARM, progress=False)
    assert frame["id"].tolist() == [e.id for e in splits.test[:4] for _ in range(3)]
    assert frame["sample"].tolist() == [0, 1, 2] * 4
    assert frame["seed"].nunique() == 12
    assert set(frame["sampling"]) == {WARM.digest}
    assert set(frame["finish_reason"]) <= {"stop", "length"}
    assert (frame.loc[frame["finish_reason"] == "length", "n_tokens"] == 12).all()
    assert frame["response"].nunique() > 8


def test_another_seed_draws_other_answers_and_more_samples_keep_the_first(engine, splits) -> None:
    problems = splits.test[:4]
    first = answer(engine(), problems, WARM, progress=False)
    other = answer(engine(), problems, dataclasses.replace(WARM, seed=6), progress=False)
    more = answer(engine(), problems, dataclasses.replace(WARM, samples=5), progress=False)
    assert first["response"].tolist() != other["response"].tolist()
    assert more[more["sample"] < 3]["response"].tolist() == first["response"].tolist()


def test_draws_follow_the_model_s_probabilities() -> None:
    """Chi-squared test of 4,000 draws against the softmax at temperature 0.7."""
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5]).repeat(4000, 1)
    sampler = PerRowSampler(Sampling(1, temperature=0.7), range(4000), width=0)
    chosen = sampler(torch.zeros(4000, 0, dtype=torch.long), scores).argmax(-1)
    expected = torch.softmax(scores[0].double() / 0.7, -1).numpy() * 4000
    assert stats.chisquare(np.bincount(chosen, minlength=5), expected).pvalue > 1e-3


def test_top_k_and_top_p_draw_from_the_likeliest_only() -> None:
    scores = torch.tensor([3.0, 2.0, 1.0, 0.0]).repeat(500, 1)
    for change, allowed in (({"top_k": 2}, {0, 1}), ({"top_p": 0.6}, {0})):
        sampler = PerRowSampler(Sampling(1, temperature=1.0, **change), range(500), width=0)
        chosen = sampler(torch.zeros(500, 0, dtype=torch.long), scores).argmax(-1)
        assert set(chosen.tolist()) == allowed


def test_the_model_s_own_generation_settings_change_nothing(tokenizer, splits, engine) -> None:
    other = tiny_qwen2(len(tokenizer), seed=3)
    other.generation_config.repetition_penalty = 5.0
    other.generation_config.do_sample = True
    other.generation_config.temperature = 3.0
    plain = answer(engine(), splits.test[:5], GREEDY, progress=False)
    assert plain.equals(answer(TransformersEngine(other, tokenizer), splits.test[:5], GREEDY, progress=False))


def test_every_end_token_and_stop_text_ends_an_answer(engine, model, tokenizer, splits) -> None:
    problems = splits.test[:6]
    plain = answer(engine(), problems, GREEDY, progress=False)
    row = plain[plain["response"].str.len() > 6].iloc[0]
    problem = [e for e in problems if e.id == row["id"]]
    stop = row["response"][3:5]
    cut = answer(engine(), problem, dataclasses.replace(GREEDY, stop=(stop,)), progress=False).iloc[0]
    assert cut["response"] == row["response"][: row["response"].find(stop)]
    assert cut["finish_reason"] == "stop"
    assert cut["n_tokens"] < row["n_tokens"]

    token = tokenizer(row["response"], add_special_tokens=False).input_ids[2]
    other = tiny_qwen2(len(tokenizer), seed=3)
    other.generation_config.eos_token_id = [tokenizer.eos_token_id, token]
    ended = answer(TransformersEngine(other, tokenizer), problem, GREEDY, progress=False).iloc[0]
    assert ended["finish_reason"] == "stop"
    assert ended["n_tokens"] <= 3


@pytest.fixture
def chat_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "chat")
    chat = load_tokenizer(tmp_path / "chat")
    chat.add_special_tokens({"additional_special_tokens": ["<s>", "<e>"]})
    chat.chat_template = TEMPLATE
    return chat


def test_the_chat_template_s_end_is_found_and_prompts_are_wrapped(chat_tokenizer, splits) -> None:
    model = tiny_qwen2(len(chat_tokenizer), seed=3)
    assert chat_tokenizer.convert_ids_to_tokens(chat_end_tokens(chat_tokenizer)) == ["<e>"]
    engine = TransformersEngine(model, chat_tokenizer)
    wrapped = answer(engine, splits.test[:2], GREEDY, progress=False)
    plain = answer(
        TransformersEngine(model, chat_tokenizer, chat_template=False),
        splits.test[:2],
        GREEDY,
        progress=False,
    )
    assert (wrapped["prompt"] != plain["prompt"]).all()


@pytest.mark.reliability(kind="bad input", title="exams: problems and settings that cannot be")
def test_bad_input_is_named_before_anything_is_drawn(engine, splits) -> None:
    problems = splits.test[:2]
    for sampling, name in (
        (Sampling(0), "max_new_tokens"),
        (Sampling(temperature=-1), "temperature"),
        (Sampling(temperature=float("nan")), "temperature"),
        (Sampling(top_p=0), "top_p"),
        (Sampling(top_k=-1), "top_k"),
        (Sampling(samples=2), "samples"),
        (Sampling(stop="Q:"), "stop"),
        (Sampling(max_new_tokens=600), "max_new_tokens is 600.*context of 512"),
    ):
        with pytest.raises(ParameterError, match=name):
            answer(engine(), problems, sampling, progress=False)
    with pytest.raises(ParameterError, match="twice"):
        answer(engine(), problems * 2, GREEDY, progress=False)
    with pytest.raises(DataError, match="empty prompt"):
        answer(engine(), [dataclasses.replace(problems[0], prompt="")], GREEDY, progress=False)
    with pytest.raises(ModelError, match="no chat template"):
        answer(engine(chat_template=True), problems, GREEDY, progress=False)


@pytest.mark.reliability(kind="fault", title="memory runs out while answers are drawn")
def test_out_of_memory_halves_the_batch_and_says_so(
    model, tokenizer, splits, engine, monkeypatch, capsys
) -> None:
    expected = answer(engine(), splits.test[:9], GREEDY, progress=False)
    original, sizes = model.generate, []

    def small(input_ids, **options):
        sizes.append(len(input_ids))
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", small)
    found = answer(engine(), splits.test[:9], GREEDY, progress=False)
    assert found.equals(expected)
    assert sizes[:3] == [9, 4, 2]
    assert "out of memory with 9 answers at once; going on with 4" in capsys.readouterr().out
    monkeypatch.setattr(model, "generate", lambda **_: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(InfraError, match="lower max_new_tokens"):
        answer(engine(), splits.test[:1], GREEDY, progress=False)


@pytest.mark.reliability(kind="fault", title="an exam interrupted between answers")
def test_an_interrupted_exam_keeps_what_it_has_and_asks_for_the_rest_alone(
    engine, model, splits, tmp_path, monkeypatch
) -> None:
    problems, store = splits.test[:6], tmp_path / "answers"
    whole = answer(engine(), problems, WARM, progress=False)
    original, drawn = model.generate, []

    def interrupted(input_ids, **options):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(len(input_ids))
        return original(input_ids=input_ids, **options)

    with monkeypatch.context() as patch:
        patch.setattr(model, "generate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            answer(engine(batch_size=4, identity="m"), problems, WARM, store=store, progress=False)
    counted = []
    monkeypatch.setattr(
        model,
        "generate",
        lambda input_ids, **o: counted.append(len(input_ids)) or original(input_ids=input_ids, **o),
    )
    assert answer(engine(identity="m"), problems, WARM, store=store, progress=False).equals(whole)
    assert sum(counted) == 18 - 8
    assert answer(engine(identity="m"), problems, WARM, store=store, progress=False).equals(whole)
    assert sum(counted) == 10, "everything was there"
    changed = [dataclasses.replace(problems[0], prompt="another question"), *problems[1:]]
    answer(engine(identity="m"), changed, WARM, store=store, progress=False)
    assert sum(counted) == 13, "the changed problem alone was asked again"
    answer(engine(identity="other model"), problems[:1], WARM, store=store, progress=False)
    assert sum(counted) == 16, "another model shares nothing"


@pytest.mark.reliability(kind="fault", title="a stored file of answers is torn")
def test_a_torn_file_of_answers_is_reported_and_drawn_again(engine, splits, tmp_path, capsys) -> None:
    problems = splits.test[:3]
    whole = answer(engine(identity="m"), problems, GREEDY, store=tmp_path, progress=False)
    (file,) = tmp_path.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:200])
    assert answer(engine(identity="m"), problems, GREEDY, store=tmp_path, progress=False).equals(whole)
    assert f"{file} is torn, or was changed" in capsys.readouterr().out
    with pytest.raises(ParameterError, match="identity"):
        answer(engine(), problems, GREEDY, store=tmp_path, progress=False)


def test_an_exam_with_samples_gives_the_table_that_pass_at_k_takes(engine, splits) -> None:
    graded = evaluate(engine(), splits.test[:4], WARM, workers=1, progress=False)
    assert len(graded) == 12
    table = pass_at_k_table(graded, (1, 3), by=["domain"])
    assert table.groupby("k")["n"].sum().tolist() == [4, 4]


# --- vLLM, by a stand-in with its documented interface ---------------------------------------


@pytest.fixture
def vllm(monkeypatch, model, tokenizer):
    """A module `vllm` whose LLM answers with the tiny model, and which remembers what it was asked."""
    module = types.ModuleType("vllm")
    module.__version__ = "0.0-stand-in"
    module.calls = []

    @dataclasses.dataclass
    class SamplingParams:
        n: int = 1
        temperature: float = 1.0
        top_p: float = 1.0
        top_k: int = 0
        max_tokens: int | None = 16
        seed: int | None = None
        stop: list[str] | None = None
        stop_token_ids: list[int] | None = None

    class LLM:
        def __init__(self, model, **options) -> None:
            module.built = {"model": model, **options}

        def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
            module.calls.append((prompts, sampling_params))
            assert len(prompts) == len(sampling_params)
            return [
                self._one(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)
            ]

        def _one(self, ids, params):
            tokens = list(ids)
            for _ in range(params.max_tokens):
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
                if tokens[-1] in params.stop_token_ids:
                    break
            new = tokens[len(ids) :]
            stopped = new[-1] in params.stop_token_ids
            completion = types.SimpleNamespace(
                text=tokenizer.decode(new, skip_special_tokens=True),
                token_ids=new,
                finish_reason="stop" if stopped else "length",
            )
            return types.SimpleNamespace(prompt_token_ids=ids, outputs=[completion], finished=True)

    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm") / "model"
    save_model(model, tokenizer, folder)
    return folder


def test_vllm_and_transformers_give_the_same_greedy_rows(vllm, folder, engine, splits) -> None:
    problems = splits.test[:5]
    found = answer(VllmEngine(folder, chunk=2), problems, GREEDY, progress=False)
    assert found.equals(answer(engine(), problems, GREEDY, progress=False))
    assert [len(prompts) for prompts, _ in vllm.calls] == [2, 2, 1]
    assert vllm.built["trust_remote_code"] is False
    assert vllm.built["generation_config"] == "vllm"


def test_vllm_is_handed_the_same_sampling_parameters_with_a_seed_per_answer(vllm, folder, splits) -> None:
    sampling = dataclasses.replace(WARM, stop=("\n\n",))
    frame = answer(VllmEngine(folder, devices=4), splits.test[:2], sampling, progress=False)
    (_, parameters), *_ = vllm.calls
    assert [p.seed for p in parameters] == frame["seed"].tolist()
    for p in parameters:
        assert (p.n, p.temperature, p.top_p, p.top_k, p.max_tokens) == (1, 0.9, 0.95, 50, 12)
        assert p.stop == ["\n\n"]
    assert vllm.built["tensor_parallel_size"] == 4
    answer(VllmEngine(folder), splits.test[:1], GREEDY, progress=False)
    (greedy,) = vllm.calls[-1][1]
    assert (greedy.temperature, greedy.top_k, greedy.seed) == (0.0, -1, None)


@pytest.mark.reliability(kind="bad input", title="generation by a package that is not installed")
def test_without_vllm_the_install_command_is_named(folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ParameterError, match="pip install vllm"):
        VllmEngine(folder)
