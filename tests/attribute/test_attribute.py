"""`infra attribute` on anybody's files: right sums, right schema, any decoder, and named bad input."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_qwen2
from families import EXPERTS, FAMILIES, MLP_LAYERS, build, picture_model
from running import ALL, run
from typer.testing import CliRunner

from infra_lib.attribute import METHODS
from infra_lib.attribute.options import EXAMPLES_ONLY
from infra_lib.cli import app
from infra_lib.curvature import construction_bytes
from infra_lib.errors import InfraError, ModelError, NumericalError, ParameterError
from infra_lib.examples import Example, write_jsonl
from infra_lib.models import linears, save_model


@pytest.mark.parametrize("reading", ["loss", "position"])
@pytest.mark.parametrize("method", [m for m in METHODS if m not in EXAMPLES_ONLY])
def test_an_examples_score_is_the_sum_of_its_sentences_and_of_its_tokens(
    model_folder, files, tmp_path, method, reading
) -> None:
    out = run(model_folder, files, tmp_path, method=method, levels=ALL, reading=reading)
    examples, sentences, tokens = (pd.read_parquet(out / f"{level}s.parquet") for level in ALL)
    keys = ["id", "target"]
    whole = examples.set_index(keys)["score"]
    for part in (sentences, tokens):
        sums = part.groupby(keys)["score"].sum().reindex(whole.index)
        assert np.allclose(sums, whole, rtol=1e-4, atol=1e-6 * whole.abs().max())


def test_files_have_their_columns_spans_and_ranks(model_folder, files, tmp_path, splits) -> None:
    out = run(model_folder, files, tmp_path, levels=ALL)
    examples, sentences, tokens = (pd.read_parquet(out / f"{level}s.parquet") for level in ALL)
    assert list(examples) == ["id", "target", "score", "rank", "n_tokens"]
    assert list(sentences) == ["id", "index", "start", "end", "target", "score"]
    assert list(tokens) == ["id", "position", "token", "start", "end", "target", "score"]
    assert set(examples["target"]) == {"math", "code"}
    for _, part in examples.groupby("target"):
        ordered = part.sort_values("rank")
        assert ordered["rank"].tolist() == list(range(1, len(part) + 1))
        assert ordered["score"].is_monotonic_decreasing
    responses = {example.id: example.response for example in splits.train}
    for (identifier, _), part in tokens.groupby(["id", "target"]):
        spelled = "".join(responses[identifier][a:b] for a, b in zip(part["start"], part["end"], strict=True))
        assert spelled == responses[identifier] == "".join(part["token"])


def test_provenance_says_what_was_done(model_folder, files, tmp_path) -> None:
    record = json.loads((run(model_folder, files, tmp_path) / "provenance.json").read_text())
    assert record["options"]["method"] == "ekfac"
    assert record["reading"] == "loss"
    assert set(record["target_examples"]) == {"math", "code"}
    assert max(record["checks"]["single_against_batch"].values()) < 1e-4
    assert record["checks"]["factors"]["orthogonality"] < 1e-4


def test_the_readings_agree_on_examples(model_folder, files, tmp_path) -> None:
    frames = [
        pd.read_parquet(run(model_folder, files, tmp_path / r, reading=r) / "examples.parquet")
        for r in ("loss", "position")
    ]
    scale = frames[0]["score"].abs().max()
    assert np.allclose(frames[0]["score"], frames[1]["score"], rtol=1e-4, atol=1e-5 * scale)


def test_an_example_that_is_its_own_target_is_among_the_most_helpful(model_folder, splits, tmp_path) -> None:
    examples = splits.train[::4]
    write_jsonl(tmp_path / "train.jsonl", examples)
    write_jsonl(tmp_path / "target.jsonl", [examples[0], examples[-1]])
    for method in ("ekfac", "gradcos"):
        frame = pd.read_parquet(
            run(model_folder, tmp_path, tmp_path / method, method=method) / "examples.parquet"
        )
        ranks = frame.set_index(["id", "target"])["rank"]
        assert ranks[examples[0].id, "math"] == 1
        assert ranks[examples[-1].id, "code"] == 1


@pytest.mark.parametrize("batch", [0, 4], ids=["conjugate gradients", "minibatches"])
def test_refinement_is_recorded_and_changes_scores_and_not_their_sums(
    model_folder, files, tmp_path, batch
) -> None:
    plain = pd.read_parquet(run(model_folder, files, tmp_path / "plain") / "examples.parquet")
    out = run(model_folder, files, tmp_path, levels=ALL, refine=2, refine_batch=batch)
    examples, tokens = (pd.read_parquet(out / f"{level}s.parquet") for level in ("example", "token"))
    keys = ["id", "target"]
    whole = examples.set_index(keys)["score"]
    sums = tokens.groupby(keys)["score"].sum().reindex(whole.index)
    assert np.allclose(sums, whole, rtol=1e-4, atol=1e-4 * whole.abs().max())
    before = plain.set_index(keys)["score"].reindex(whole.index)
    record = json.loads((out / "provenance.json").read_text())["checks"]["refinement"]
    for target, residual in record["relative_residual"].items():
        assert 0 < residual["refined"] < residual["ekfac"]
        pair = pd.DataFrame({"a": whole, "b": before}).xs(target, level="target")
        expected = pair.corr("spearman").loc["a", "b"]
        assert record["spearman_with_ekfac"][target] == pytest.approx(expected, abs=1e-3)
        assert expected < 1
    assert {row["iteration"] for row in record["record"]} >= {0, 2}


@pytest.mark.reliability(kind="bad input", title="infra attribute: a refinement of a method that has none")
def test_only_ekfac_can_be_refined(model_folder, files, tmp_path) -> None:
    for change, words in (
        ({"refine": 2, "method": "trak"}, "it refines ekfac"),
        ({"refine": -1}, "--refine is -1"),
        ({"refine": 1, "refine_batch": -1}, "--refine-batch is -1"),
    ):
        with pytest.raises(ParameterError, match=words):
            run(model_folder, files, tmp_path, **change)


def test_trak_scores_examples_and_says_how_many_found_themselves(model_folder, files, tmp_path) -> None:
    out = run(model_folder, files, tmp_path, method="trak")
    assert len(pd.read_parquet(out / "examples.parquet")) == 20
    assert json.loads((out / "provenance.json").read_text())["checks"]["self_rank"] == 1.0
    with pytest.raises(ParameterError, match="--method trak has no scores of sentences or tokens"):
        run(model_folder, files, tmp_path, method="trak", levels=("sentence",))


def test_cosines_lie_between_minus_one_and_one(model_folder, files, tmp_path) -> None:
    scores = pd.read_parquet(run(model_folder, files, tmp_path, method="gradcos") / "examples.parquet")[
        "score"
    ]
    assert scores.abs().max() <= 1 + 1e-5


def test_a_second_run_takes_its_factors_from_the_first(model_folder, files, tmp_path, monkeypatch) -> None:
    from infra_lib.curvature import fit as curvature

    first = pd.read_parquet(run(model_folder, files, tmp_path, damping=0.5) / "examples.parquet")
    monkeypatch.setattr(curvature, "_fit_partition", lambda *_: pytest.fail("fitted again"))
    again = pd.read_parquet(run(model_folder, files, tmp_path, damping=0.5, levels=ALL) / "examples.parquet")
    pd.testing.assert_frame_equal(first, again)


def test_random_scores_follow_the_seed_and_have_no_finer_level(model_folder, files, tmp_path) -> None:
    frames = [
        pd.read_parquet(
            run(model_folder, files, tmp_path / str(i), method="random", seed=s) / "examples.parquet"
        )
        for i, s in enumerate((0, 0, 1))
    ]
    assert frames[0].equals(frames[1])
    assert not frames[0].equals(frames[2])
    with pytest.raises(ParameterError, match="--levels"):
        run(model_folder, files, tmp_path / "x", method="random", levels=("token",))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_dense_decoder_family_is_attributed(family, tokenizer, files, tmp_path) -> None:
    model = build(family, FAMILIES[family], len(tokenizer))
    save_model(model, tokenizer, tmp_path / "model")
    out = run(tmp_path / "model", files, tmp_path / "out", levels=("example", "token"))
    examples = pd.read_parquet(out / "examples.parquet").set_index(["id", "target"])["score"]
    tokens = pd.read_parquet(out / "tokens.parquet").groupby(["id", "target"])["score"].sum()
    assert np.allclose(tokens.reindex(examples.index), examples, rtol=1e-4, atol=1e-6 * examples.abs().max())
    record = json.loads((out / "provenance.json").read_text())
    assert max(record["checks"]["single_against_batch"].values()) < 1e-3
    assert len(record["layers"]) == 2 * len(MLP_LAYERS[family])
    assert {name.rsplit(".", 1)[-1] for name in record["layers"]} == MLP_LAYERS[family]
    # The other reading is another pass, and one layer a partition begins the graph at each of them.
    need = max(construction_bytes(module, False) for module in linears(model, None).values())
    for name, change in {"position": {"reading": "position"}, "parts": {"memory": f"{need}B"}}.items():
        other = run(tmp_path / "model", files, tmp_path / name, **change)
        found = pd.read_parquet(other / "examples.parquet").set_index(["id", "target"])["score"]
        assert np.allclose(
            found.reindex(examples.index), examples, rtol=1e-3, atol=1e-4 * examples.abs().max()
        )


def test_of_a_model_that_sees_pictures_the_text_decoder_is_attributed(tokenizer, files, tmp_path) -> None:
    model = picture_model(len(tokenizer))
    save_model(model, tokenizer, tmp_path / "model")
    out = run(tmp_path / "model", files, tmp_path / "out", levels=("example", "token"))
    layers = json.loads((out / "provenance.json").read_text())["layers"]
    assert len(layers) == 6
    assert all(
        "vision" not in name and name.rsplit(".", 1)[-1] in MLP_LAYERS["gemma3_text"] for name in layers
    )
    with pytest.raises(ModelError, match=r"a text does not pass layer .*vision.*fc1 of Gemma3"):
        run(tmp_path / "model", files, tmp_path / "seen", layers=r"vision.*fc1")
    with pytest.raises(ModelError, match=r"a text does not pass layer .*vision.*fc1 of Gemma3"):
        run(tmp_path / "model", files, tmp_path / "dot", method="gradcos", layers=r"vision.*fc1")


@pytest.mark.reliability(kind="bad input", title="a mixture of experts to attribute")
@pytest.mark.parametrize("family", EXPERTS)
def test_mixtures_of_experts_are_refused_with_the_reason(family, tokenizer, files, tmp_path) -> None:
    save_model(build(family, EXPERTS[family], len(tokenizer)), tokenizer, tmp_path / "model")
    with pytest.raises(ModelError, match="mixture of experts"):
        run(tmp_path / "model", files, tmp_path / "out")


@pytest.mark.parametrize("method", ["loss", "length", "bm25", "random"])
def test_methods_without_layers_take_mixtures_of_experts(method, tokenizer, files, tmp_path) -> None:
    save_model(build("mixtral", EXPERTS["mixtral"], len(tokenizer)), tokenizer, tmp_path / "model")
    out = run(tmp_path / "model", files, tmp_path / "out", method=method)
    assert len(pd.read_parquet(out / "examples.parquet")) == 20
    assert json.loads((out / "provenance.json").read_text())["layers"] == []
    with pytest.raises(ParameterError, match="--layers is 'mlp': it must be left out with --method"):
        run(tmp_path / "model", files, tmp_path / "out", method=method, layers="mlp")


@pytest.mark.reliability(kind="bad input", title="an option of infra attribute that cannot be")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": "magic"}, "--method"),
        ({"levels": ("word",)}, "--levels"),
        ({"levels": ()}, "--levels"),
        ({"damping": 0.0}, "--damping"),
        ({"damping": float("nan")}, "--damping"),
        ({"reading": "both"}, "--reading"),
        ({"device": "tpu"}, "--device"),
        ({"batch_tokens": 0}, "--batch-tokens"),
        ({"seed": -1}, "--seed"),
        ({"dtype": "int8"}, "--dtype"),
        ({"target_mean": "max"}, "--target-mean"),
    ],
)
def test_bad_options_are_named_before_anything_is_loaded(files, tmp_path, change, named) -> None:
    with pytest.raises(ParameterError, match=named):
        run(tmp_path / "no model", files, tmp_path / "out", **change)


@pytest.mark.reliability(kind="bad input", title="a model that cannot be attributed")
def test_unusable_models_are_named(model_folder, files, tmp_path, tokenizer) -> None:
    with pytest.raises(ModelError, match="neither a model folder"):
        run(tmp_path / "none", files, tmp_path / "out")
    broken = tiny_qwen2(len(tokenizer))
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight[0, 0] = float("inf")
    save_model(broken, tokenizer, tmp_path / "inf")
    with pytest.raises(ModelError, match=r"up_proj\.weight holds values that are not finite"):
        run(tmp_path / "inf", files, tmp_path / "out")
    flat = tiny_qwen2(len(tokenizer))
    with torch.no_grad():
        for module in flat.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.zero_()
    save_model(flat, tokenizer, tmp_path / "zero")
    with pytest.raises(NumericalError):
        run(tmp_path / "zero", files, tmp_path / "out")


def test_a_domain_only_in_the_target_is_a_target(model_folder, splits, tmp_path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [e for e in splits.train[::4] if e.domain == "math"])
    write_jsonl(tmp_path / "target.jsonl", splits.target[::5])
    frame = pd.read_parquet(run(model_folder, tmp_path, tmp_path / "out") / "examples.parquet")
    assert set(frame["target"]) == {"math", "code"}


def test_the_command_line_writes_scores_and_reports_errors(model_folder, files, tmp_path) -> None:
    base = ["attribute", "--model", str(model_folder), "--train", str(files / "train.jsonl")]
    base += ["--target", str(files / "target.jsonl"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*base, "--levels", "example,sentence,token", "--method", "identity"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "tokens.parquet").is_file()
    bad = CliRunner().invoke(app, [*base, "--damping", "-1"])
    assert isinstance(bad.exception, InfraError)


@pytest.mark.reliability(kind="bad input", title="examples with odd texts")
def test_odd_texts_are_scored(model_folder, files, tmp_path, splits) -> None:
    odd = ["ünïcödé 🙂 שלום", "\u202eabc", "a\x00b", "x" * 50, "line\r\nline\n\n\nline", "   leading"]
    examples = [*splits.train[::8], *(Example(f"odd{i}", "math", "p", text) for i, text in enumerate(odd))]
    write_jsonl(tmp_path / "train.jsonl", examples)
    shutil.copy(files / "target.jsonl", tmp_path)
    out = run(model_folder, tmp_path, tmp_path / "out", levels=ALL)
    sentences = pd.read_parquet(out / "sentences.parquet")
    for i, text in enumerate(odd):
        part = sentences[(sentences["id"] == f"odd{i}") & (sentences["target"] == "math")]
        assert "".join(text[a:b] for a, b in zip(part["start"], part["end"], strict=True)) == text
