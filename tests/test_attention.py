"""Attention's own rule for forward mode gives what differentiating eager attention gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from infra_lib.attention import blocks, forward_attention, fused_attention
from infra_lib.attention.kernels import is_usable
from infra_lib.attention.rule import NAME, _Attention, register
from infra_lib.influence import token_scores
from infra_lib.models import Encoded, batches, mlp_linears

SCALE = 0.25


def eager(query, key, value, mask):
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    tokens = query.shape[2]
    seen = torch.ones(tokens, tokens, dtype=torch.bool).tril() if mask is None else mask
    return torch.softmax((query @ key.mT * SCALE).masked_fill(~seen, -1e30), -1) @ value


def attend(query, key, value, mask):
    return _Attention.apply(query, key, value, mask, SCALE)


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(params=["causal", "padded"])
def case(request, monkeypatch):
    """Queries, keys and values, two query heads to a key head, and a mask; rows of several blocks."""
    torch.manual_seed(0)
    monkeypatch.setattr(blocks, "QUERIES", 32)
    mask = None
    if request.param == "padded":
        mask = torch.ones(70, 70, dtype=torch.bool).tril().repeat(2, 1, 1, 1)
        mask[0, :, :, 60:] = False
    return (drawn(2, 4, 70, 16), drawn(2, 2, 70, 16), drawn(2, 2, 70, 16)), mask


def test_derivatives_of_all_targets_are_those_of_eager_attention(case) -> None:
    primal, mask = case
    tangents = tuple(drawn(3, *part.shape) for part in primal)

    def along(function):
        def one(*moved):
            return torch.func.jvp(lambda *parts: function(*parts, mask), primal, moved)[1]

        return torch.func.vmap(one)(*tangents)

    expected = along(eager)
    assert torch.allclose(along(attend), expected, atol=1e-12)
    assert expected.abs().max() > 1


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_tangent_of_one_input_alone(case, which) -> None:
    primal, mask = case
    moved = drawn(*primal[which].shape)

    def along(function):
        def of(part):
            parts = [*primal[:which], part, *primal[which + 1 :]]
            return function(*parts, mask)

        return torch.func.jvp(of, (primal[which],), (moved,))

    for own, expected in zip(along(attend), along(eager), strict=True):
        assert torch.allclose(own, expected, atol=1e-12)


def test_a_batch_of_primal_values_is_attended_one_by_one(case) -> None:
    (query, key, value), mask = case
    queries = torch.stack([query, 2 * query])
    moved = drawn(*queries.shape)

    def along(function):
        def one(part, tangent):
            return torch.func.jvp(lambda q: function(q, key, value, mask), (part,), (tangent,))

        return torch.func.vmap(one)(queries, moved)

    for own, expected in zip(along(attend), along(eager), strict=True):
        assert torch.allclose(own, expected, atol=1e-12)


def test_a_row_that_sees_nothing_has_no_derivative() -> None:
    torch.manual_seed(0)
    primal = [drawn(1, 1, 4, 8) for _ in range(3)]
    mask = torch.ones(4, 4, dtype=torch.bool).tril().repeat(1, 1, 1, 1)
    mask[..., 0, :] = False
    output = blocks.attention(*primal, mask, SCALE).nan_to_num()
    moved = blocks.derivative(*primal, output, mask, SCALE, tuple(drawn(1, 1, 1, 4, 8) for _ in range(3)))
    assert torch.isfinite(moved).all()
    assert not moved[..., 0, :].any()
    assert moved[..., 1, :].any()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).double().eval()


def rows() -> list[Encoded]:
    found = []
    for i, length in enumerate((12, 9, 12, 5)):
        mask = torch.zeros(length, dtype=torch.bool)
        mask[3:] = True
        ids = torch.randint(1, 32, (length,), generator=torch.Generator().manual_seed(i))
        found.append(Encoded(str(i), ids, mask, tuple((t, t + 1) for t in range(length - 3))))
    return found


def test_token_scores_are_the_same_through_the_rule(model) -> None:
    torch.manual_seed(1)
    names = list(mlp_linears(model))
    along = {t: {n: torch.randn_like(model.get_submodule(n).weight) for n in names} for t in ("a", "b")}
    expected = token_scores(model, rows(), along, batch_tokens=24, progress=False)
    register()
    model.set_attn_implementation(NAME)
    try:
        found = token_scores(model, rows(), along, batch_tokens=24, progress=False)
    finally:
        model.set_attn_implementation("eager")
    for target in along:
        # Of sums of many terms, one near zero keeps fewer digits: how few is the processor's.
        wanted = np.concatenate(expected[target])
        atol = 1e-7 * np.abs(wanted).max()
        np.testing.assert_allclose(np.concatenate(found[target]), wanted, rtol=1e-5, atol=atol)


def test_a_cpu_keeps_eager_attention_for_short_rows_and_gets_it_back(model) -> None:
    batch = batches(rows(), batch_tokens=64, pad_id=0)[0]
    for context in (forward_attention, fused_attention):
        with context(model, batch):
            assert model.config._attn_implementation == "eager"
    long = batches([Encoded("x", torch.ones(1024, dtype=torch.long), torch.ones(1024).bool(), ())],
                   batch_tokens=1024, pad_id=0)[0]  # fmt: skip
    with fused_attention(model, long):
        assert model.config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == "eager"
    assert not is_usable(torch.zeros(1, 1, 1, 8))  # the kernel is for CUDA alone


def test_the_recorded_kernel_was_as_exact_as_its_precision(root) -> None:
    record = json.loads((root / "records" / "gpu" / "attribution.json").read_text(encoding="utf-8"))
    assert {(c["width"], c["masked"]) for c in record["attention"]} >= {(64, True), (128, False), (80, True)}
    for check in record["attention"]:
        assert 0 < check["relative_error"] < (1e-6 if check["dtype"] == "float32" else 4e-3)
