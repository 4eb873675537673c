"""Normalised scores, self-influence, labels, layers, memory, baselines and checkpoints."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import tiny_qwen2
from running import ALL, provenance, run, scores, table

from infra_lib import baselines
from infra_lib.attribute import METHODS
from infra_lib.attribute.options import EXAMPLES_ONLY, GRADIENT, parse_bytes
from infra_lib.errors import ModelError, ParameterError
from infra_lib.examples import read_jsonl
from infra_lib.models import encode, load_model, load_tokenizer, save_model


@pytest.fixture(scope="module")
def plain(model_folder, files, tmp_path_factory):
    return run(model_folder, files, tmp_path_factory.mktemp("plain"), levels=ALL, self_influence=True)


@pytest.fixture(scope="module")
def second_model(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("second") / "model"
    save_model(tiny_qwen2(len(tokenizer), seed=1), tokenizer, folder)
    return folder


@pytest.mark.parametrize(("normalise", "power"), [("length", 1.0), ("sqrt_length", 0.5)])
@pytest.mark.parametrize("reading", ["loss", "position"])
def test_length_normalised_scores_divide_by_their_own_tokens(
    model_folder, files, plain, tmp_path, normalise, power, reading
) -> None:
    out = run(model_folder, files, tmp_path, levels=ALL, normalise=normalise, reading=reading)
    examples, tokens = table(out, "example"), table(out, "token")
    before = table(plain, "example")["score"]
    # The readings agree on examples only up to rounding.
    close = {"rtol": 1e-4, "atol": 1e-5 * before.abs().max()}
    assert np.allclose(examples["score"] * examples["n_tokens"] ** power, before, **close)
    assert (examples.sort_values("rank").groupby("target")["score"].diff().dropna() <= 0).all()
    one = examples["id"].iloc[0]
    own = tokens[(tokens["id"] == one) & (tokens["target"] == "math")]
    lines = map(json.loads, (files / "train.jsonl").read_text().splitlines())
    response = next(line["response"] for line in lines if line["id"] == one)
    # A token belongs to the sentence of its first character that is no white space.
    pieces = [response[start:end] for start, end in zip(own["start"], own["end"], strict=True)]
    blank = [len(piece) - len(piece.lstrip()) if piece.strip() else 0 for piece in pieces]
    own = own.assign(start=own["start"] + blank)
    for row in table(out, "sentence").query("id == @one and target == 'math' and index >= 0").itertuples():
        inside = own[(own["start"] >= row.start) & (own["start"] < row.end) & (own["position"] >= 0)]
        assert row.score == pytest.approx(inside["score"].sum() / len(inside) ** power, rel=1e-4)
    assert "do not hold" in provenance(out)["sums"]


def test_self_normalised_scores_divide_by_the_root_of_self_influence(
    model_folder, files, plain, tmp_path
) -> None:
    out = run(model_folder, files, tmp_path, levels=ALL, normalise="self")
    own = pd.read_parquet(plain / "self_influence.parquet").set_index("id")["self_influence"]
    expected = scores(plain) / np.sqrt(own.reindex(scores(plain).index.get_level_values("id")).to_numpy())
    assert np.allclose(scores(out), expected, rtol=1e-4, atol=1e-6 * expected.abs().max())
    sums = table(out, "token").groupby(["id", "target"])["score"].sum()
    assert np.allclose(sums.reindex(scores(out).index), scores(out), rtol=1e-4, atol=1e-5)


def test_self_influence_is_an_examples_score_on_itself_alone(model_folder, files, plain, tmp_path) -> None:
    own = pd.read_parquet(plain / "self_influence.parquet")
    assert list(own) == ["id", "self_influence", "n_tokens"]
    assert (own["self_influence"] > 0).all()
    lines = (files / "train.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "target.jsonl").write_text(lines[0] + "\n" + lines[-1] + "\n")
    found = scores(run(model_folder, tmp_path, tmp_path / "out"))
    for row in (own.iloc[0], own.iloc[-1]):
        target = json.loads(lines[0 if row["id"] == own["id"].iloc[0] else -1])["domain"]
        assert found[row["id"], target] == pytest.approx(row["self_influence"], rel=1e-4)


def test_gradient_dot_normalised_by_self_is_the_cosine_up_to_the_targets_norm(
    model_folder, files, tmp_path
) -> None:
    dot = scores(run(model_folder, files, tmp_path / "dot", method="graddot", normalise="self"))
    cosine = scores(run(model_folder, files, tmp_path / "cos", method="gradcos"))
    ratio = (dot / cosine).groupby("target")
    assert (ratio.max() / ratio.min()).max() == pytest.approx(1, rel=1e-4)


def test_parquet_files_say_how_to_read_their_numbers(plain) -> None:
    for name in ("examples", "sentences", "tokens"):
        schema = pq.read_schema(plain / f"{name}.parquet")
        found = json.loads(schema.metadata[b"infra"])
        assert found["reading"] == "loss"
        assert found["method"] == "ekfac"
        assert found["damping"] == 0.1
        assert found["units"].startswith("nats of the target")
        assert found["sign"].startswith("positive: up-weighting")
        assert found.items() <= provenance(plain).items()
    own = json.loads(pq.read_schema(plain / "self_influence.parquet").metadata[b"infra"])
    assert own["units"].startswith("nats of the example itself")


def test_what_a_method_does_not_have_is_not_claimed(model_folder, files, tmp_path) -> None:
    out = run(model_folder, files, tmp_path, method="bm25")
    found = json.loads(pq.read_schema(out / "examples.parquet").metadata[b"infra"])
    assert found["reading"] is None
    assert found["damping"] is None
    assert found["units"] == "BM25"


def test_labels_and_layers_change_what_is_fitted(model_folder, files, plain, tmp_path) -> None:
    empirical = run(model_folder, files, tmp_path / "e", labels="empirical")
    assert not np.allclose(scores(empirical), scores(plain), rtol=1e-2)
    attention = run(model_folder, files, tmp_path / "a", layers=r"self_attn\.[qv]_proj")
    layers = provenance(attention)["layers"]
    assert len(layers) == 4
    assert all(name.endswith(("q_proj", "v_proj")) for name in layers)
    with pytest.raises(ModelError, match="no linear layer matching 'nothing'"):
        run(model_folder, files, tmp_path / "n", layers="nothing")
    with pytest.raises(ParameterError, match="--layers"):
        run(model_folder, files, tmp_path / "r", layers="(")


def test_a_small_memory_fits_the_same_factors_in_more_rounds(model_folder, files, plain, tmp_path) -> None:
    out = run(model_folder, files, tmp_path, memory="12kB")
    assert len(list((out / "factors").glob("*.safetensors"))) > 1
    assert np.allclose(scores(out), scores(plain), rtol=1e-4, atol=1e-5 * scores(plain).abs().max())
    with pytest.raises(ParameterError, match=r"--memory is '1kB': it must be at least \d+ for layer"):
        run(model_folder, files, tmp_path / "x", memory="1kB")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4GiB", 2**32),
        ("1.5 gib", 3 * 2**29),
        ("500MB", 500_000_000),
        ("12", 12),
        ("40kB", 40_000),
        ("2TiB", 2**41),
    ],
)
def test_sizes_are_read_with_their_units(text, count) -> None:
    assert parse_bytes("--memory", text) == count


@pytest.mark.reliability(kind="bad input", title="infra attribute: sizes of memory that are none")
@pytest.mark.parametrize("text", ["", "GiB", "4 apples", "-1GiB", "0", "0.1", "1e9", "4GiB2"])
def test_sizes_that_are_none_are_named(text) -> None:
    with pytest.raises(ParameterError, match="--memory"):
        parse_bytes("--memory", text)


def test_simple_baselines_are_methods(model_folder, files, tmp_path) -> None:
    train, target = (read_jsonl(files / f"{name}.jsonl") for name in ("train", "target"))
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    encoded = [encode(tokenizer, example) for example in train]
    by_domain = {d: [e for e in target if e.domain == d] for d in ("code", "math")}
    expected = {
        "loss": dict.fromkeys(by_domain, baselines.losses(model, encoded)),
        "length": dict.fromkeys(by_domain, baselines.lengths(encoded)),
        "bm25": baselines.lexical(train, by_domain),
    }
    for method, wanted in expected.items():
        found = table(run(model_folder, files, tmp_path / method, method=method), "example")
        for domain, values in wanted.items():
            part = found[found["target"] == domain]
            assert part["id"].tolist() == [example.id for example in train]
            assert np.allclose(part["score"], values, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_checkpoints_are_averaged(model_folder, second_model, files, tmp_path, method) -> None:
    both = run(model_folder, files, tmp_path / "both", method=method, checkpoints=(str(second_model),))
    assert provenance(both)["models"] == 2
    one, two = (scores(run(m, files, tmp_path / m.name, method=method)) for m in (model_folder, second_model))
    if method == "trak":  # its own ensemble averages features and weights apart
        assert not np.allclose(scores(both), one)
        return
    mean = (one + two) / 2
    assert np.allclose(scores(both), mean, rtol=1e-4, atol=1e-5 * mean.abs().max())
    assert list(provenance(both)["checks_of_checkpoints"]) == [str(second_model)]


def test_sums_hold_in_an_ensemble(model_folder, second_model, files, tmp_path) -> None:
    change = {"levels": ALL, "checkpoints": (str(second_model),), "self_influence": True}
    out = run(model_folder, files, tmp_path, **change)
    for level in ("sentence", "token"):
        sums = table(out, level).groupby(["id", "target"])["score"].sum().reindex(scores(out).index)
        assert np.allclose(sums, scores(out), rtol=1e-4, atol=1e-4 * scores(out).abs().max())
    assert (pd.read_parquet(out / "self_influence.parquet")["self_influence"] > 0).all()


@pytest.mark.reliability(kind="bad input", title="infra attribute: checkpoints of another architecture")
def test_checkpoints_of_another_architecture_are_refused(model_folder, tokenizer, files, tmp_path) -> None:
    save_model(tiny_qwen2(len(tokenizer), layers=3), tokenizer, tmp_path / "deep")
    with pytest.raises(ModelError, match=r"--checkpoints .*/deep .*is 3, not 2"):
        run(model_folder, files, tmp_path / "out", checkpoints=(str(tmp_path / "deep"),))
    with pytest.raises(ModelError, match="neither a model folder"):
        run(model_folder, files, tmp_path / "out", checkpoints=(str(tmp_path / "none"),))


@pytest.mark.reliability(kind="bad input", title="infra attribute: a variant that a method does not have")
@pytest.mark.parametrize("method", EXAMPLES_ONLY)
def test_variants_that_a_method_does_not_have_are_named(model_folder, files, tmp_path, method) -> None:
    with pytest.raises(ParameterError, match=f"--self-influence .*--method {method}"):
        run(model_folder, files, tmp_path, method=method, self_influence=True)
    with pytest.raises(ParameterError, match=f"--normalise is 'self': .*--method {method}"):
        run(model_folder, files, tmp_path, method=method, normalise="self")


def test_the_method_lists_agree() -> None:
    assert set(GRADIENT) | set(EXAMPLES_ONLY) == set(METHODS)
    assert not set(GRADIENT) & set(EXAMPLES_ONLY)
