"""Influence scores against brute force: dense matrices and one backward pass per token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_qwen2

from infra_lib.curvature import fit_factors
from infra_lib.errors import ModelError, NumericalError, ParameterError
from infra_lib.influence import (
    example_scores,
    position_scores,
    precondition,
    span_of_tokens,
    sum_over_spans,
    target_gradient,
    token_scores,
)
from infra_lib.models import encode, mlp_linears


@pytest.fixture(scope="module")
def setting(tokenizer, splits):
    model = tiny_qwen2(len(tokenizer)).double()
    train = [encode(tokenizer, e, end_token=True) for e in splits.train[::4]]
    targets = {
        domain: [encode(tokenizer, e, end_token=True) for e in splits.target if e.domain == domain]
        for domain in ("math", "code")
    }
    factors = fit_factors(model, train, labels="empirical", diagonal=True, progress=False)
    names = list(factors.layers)
    directions = {
        domain: precondition(factors, target_gradient(model, names, rows), damping=0.1)
        for domain, rows in targets.items()
    }
    return model, train, targets, factors, directions


def log_prob_gradients(model, row):
    """Return, per loss term, the gradient of its log-probability by each MLP weight."""
    weights = [module.weight for module in mlp_linears(model).values()]
    logits = model(row.input_ids[None]).logits[0].log_softmax(-1)
    return [
        torch.autograd.grad(logits[t - 1, row.input_ids[t]], weights, retain_graph=True)
        for t in torch.where(row.loss_mask)[0]
    ]


def test_layers_that_share_a_weight_share_its_gradient(tokenizer, splits) -> None:
    model = tiny_qwen2(len(tokenizer))
    first, second = (f"model.layers.{k}.mlp.up_proj" for k in (0, 1))
    model.get_submodule(second).weight = model.get_submodule(first).weight
    rows = [encode(tokenizer, example, end_token=True) for example in splits.target[:2]]
    found = target_gradient(model, [first, second], rows)
    assert torch.equal(found[first], found[second])
    weight = model.get_submodule(first).weight
    total = torch.zeros_like(weight)
    for row in rows:
        logits = model(row.input_ids[None]).logits[0].log_softmax(-1)
        value = sum(logits[t - 1, row.input_ids[t]] for t in torch.where(row.loss_mask)[0])
        total += torch.autograd.grad(value, weight)[0]
    assert torch.allclose(found[first], total / len(rows), rtol=1e-4, atol=1e-6)


@pytest.mark.reliability(kind="bad input", title="layers whose output a model does not use")
def test_a_layer_that_no_gradient_reaches_is_named_and_the_model_is_as_before(tokenizer, splits) -> None:
    model = tiny_qwen2(len(tokenizer))
    name = "model.layers.0.mlp.up_proj"
    weight = model.get_submodule(name).weight
    weight.grad = torch.ones_like(weight)
    model.lm_head.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    rows = [encode(tokenizer, example, end_token=True) for example in splits.target[:2]]
    hook = model.get_submodule(name).register_forward_hook(lambda _m, _i, output: output.detach())
    with pytest.raises(ModelError, match=rf"no gradient reaches layer {name}: what it gives is not used"):
        target_gradient(model, [name, "model.layers.1.mlp.up_proj"], rows)
    hook.remove()
    target_gradient(model, [name], rows, offload=True)
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert torch.equal(weight.grad, torch.ones_like(weight))


@pytest.mark.parametrize("per_token", [False, True])
def test_target_gradient_is_the_mean_of_plain_gradients(setting, per_token: bool) -> None:
    model, _, targets, _, _ = setting
    names = list(mlp_linears(model))
    found = target_gradient(model, names, targets["math"], per_token=per_token)
    assert len({row.n_tokens for row in targets["math"]}) > 1, (
        "a mean over tokens and a sum would differ by a factor"
    )
    total = [0.0] * len(names)
    for row in targets["math"]:
        share = 1 / row.n_tokens if per_token else 1
        for gradients in log_prob_gradients(model, row):
            total = [a + share * b for a, b in zip(total, gradients, strict=True)]
    for name, expected in zip(names, total, strict=True):
        assert torch.allclose(found[name].double(), expected / len(targets["math"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["ekfac", "kfac", "diagonal", "identity"])
def test_direction_solves_the_dense_damped_system(setting, method: str) -> None:
    model, _, targets, factors, _ = setting
    names = list(factors.layers)
    gradient = target_gradient(model, names, targets["code"])
    direction = precondition(factors, gradient, damping=0.3, method=method)
    for name in names:
        layer = factors.layers[name]
        values = factors.eigenvalues(name, method).double()
        rows, columns = values.shape
        basis = torch.eye(rows * columns, dtype=torch.float64)
        if method in ("ekfac", "kfac"):
            basis = torch.kron(layer.q_out.double(), layer.q_in.double())
        dense = basis @ torch.diag(values.flatten()) @ basis.T
        dense += 0.3 * values.mean() * torch.eye(len(dense), dtype=torch.float64)
        expected = torch.linalg.solve(dense, gradient[name].double().flatten()).view(rows, columns)
        assert torch.allclose(direction[name].double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


def test_token_scores_equal_one_backward_pass_per_token(setting) -> None:
    model, train, _, _, directions = setting
    scores = token_scores(model, train, directions, progress=False)
    for target, direction in directions.items():
        for row, found in zip(train[:4], scores[target][:4], strict=True):
            expected = [
                sum(
                    float((g.double() * v.double()).sum())
                    for g, v in zip(gs, direction.values(), strict=True)
                )
                for gs in log_prob_gradients(model, row)
            ]
            assert np.allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_head_with_a_soft_cap_scores_like_one_backward_pass_per_token(tokenizer, splits) -> None:
    """Gemma 2 bends its logits after the head; they take the way through the logits themselves."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from infra_lib.responses import has_plain_head

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=1.0,
        initializer_range=0.3,
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config).eval().double()
    train = [encode(tokenizer, e, end_token=True) for e in splits.train[::12]]
    assert not has_plain_head(model, train[0])
    assert has_plain_head(tiny_qwen2(len(tokenizer)), train[0])
    factors = fit_factors(model, train, labels="empirical", progress=False)
    direction = precondition(factors, target_gradient(model, list(factors.layers), train[:2]))
    scores = token_scores(model, train[:2], {"t": direction}, progress=False)["t"]
    for row, found in zip(train[:2], scores, strict=True):
        expected = [
            sum(float((g.double() * v.double()).sum()) for g, v in zip(gs, direction.values(), strict=True))
            for gs in log_prob_gradients(model, row)
        ]
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_both_readings_agree_on_examples_and_differ_on_tokens(setting) -> None:
    model, train, _, _, directions = setting
    terms = token_scores(model, train, directions, progress=False)
    positions = position_scores(model, train, directions, progress=False)
    for target in directions:
        by_term, by_position = example_scores(terms)[target], example_scores(positions)[target]
        assert np.allclose(by_term, by_position, rtol=1e-4, atol=1e-4 * np.abs(by_term).max())
        row = next(i for i in range(len(train)) if len(terms[target][i]) > 10)
        tail = positions[target][row][-len(terms[target][row]) :]
        assert np.corrcoef(terms[target][row], tail)[0, 1] < 0.999


@pytest.mark.parametrize("score", [token_scores, position_scores])
@pytest.mark.parametrize("budget", [1, 100_000])
def test_scores_depend_on_neither_batch_nor_order(setting, budget: int, score) -> None:
    model, train, _, _, directions = setting
    plain = score(model, train, directions, progress=False)
    other = score(model, train[::-1], directions, batch_tokens=budget, progress=False)
    for target in directions:
        for a, b in zip(plain[target], other[target][::-1], strict=True):
            assert np.allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("score", [token_scores, position_scores])
def test_scores_depend_on_neither_padding_side_nor_threads(tokenizer, setting, monkeypatch, score) -> None:
    import infra_lib.influence as module

    _, train, _, _, directions = setting
    model = tiny_qwen2(len(tokenizer))  # transformers' masks give NaN for left padding in double precision
    plain = score(model, train, directions, progress=False)
    original, threads = module.batches, torch.get_num_threads()
    monkeypatch.setattr(module, "batches", lambda *a, **k: original(*a, padding_side="left", sort=False, **k))
    torch.set_num_threads(2)
    try:
        other = score(model, train, directions, progress=False)
    finally:
        torch.set_num_threads(threads)
    for target in directions:
        size = max(np.abs(row).max() for row in plain[target])
        for a, b in zip(plain[target], other[target], strict=True):
            assert np.allclose(a, b, rtol=1e-4, atol=1e-5 * size)


def test_a_target_scored_alone_scores_as_in_company(setting) -> None:
    model, train, _, _, directions = setting
    together = token_scores(model, train, directions, progress=False)
    alone = token_scores(model, train, {"math": directions["math"]}, progress=False)
    assert all(np.allclose(a, b, rtol=1e-5) for a, b in zip(together["math"], alone["math"], strict=True))


def test_a_small_step_towards_an_example_moves_the_target_as_its_score_says(setting) -> None:
    """With the identity as curvature the score is the target's derivative along the example's gradient."""
    model, train, targets, factors, _ = setting
    names = list(factors.layers)
    gradient = target_gradient(model, names, targets["math"])
    direction = precondition(factors, gradient, damping=1e-9, method="identity")
    scores = example_scores(token_scores(model, train[:3], {"math": direction}, progress=False))["math"]
    modules = dict(model.named_modules())

    def target() -> float:
        from infra_lib.models import batches
        from infra_lib.responses import token_log_probs

        with torch.no_grad():
            total = sum(
                float(token_log_probs(model, b).sum())
                for b in batches(targets["math"], batch_tokens=4096, pad_id=0)
            )
        return total / len(targets["math"])

    for row, score in zip(train[:3], scores, strict=True):
        step = target_gradient(model, names, [row])
        moved = []
        for sign in (1, -1):
            for name in names:
                modules[name].weight.data += sign * 3e-5 * step[name].to(modules[name].weight)
            moved.append(target())
            for name in names:
                modules[name].weight.data -= sign * 3e-5 * step[name].to(modules[name].weight)
        assert (moved[0] - moved[1]) / 6e-5 == pytest.approx(score, rel=2e-2)


def test_span_sums_add_up_and_end_tokens_belong_to_the_last_span() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0])
    sums = sum_over_spans(values, [(0, 2), (2, 5), (5, 9), (9, 9)], [(0, 4), (4, 9)])
    assert sums.tolist() == [3.0, 12.0]
    assert sums.sum() == values.sum()


def test_a_word_belongs_to_its_sentence_and_not_to_the_space_before_it(tokenizer, splits) -> None:
    example = next(e for e in splits.train if e.domain == "math")
    row = encode(tokenizer, example, end_token=True)
    spans = [(s.start, s.end) for s in example.sentences]
    owner = span_of_tokens(row.offsets, spans, example.response)
    assert sorted(set(owner)) == list(range(len(spans)))
    spaced = 0
    for (start, end), k in zip(row.offsets, owner, strict=True):
        piece = example.response[start:end]
        inked = start + len(piece) - len(piece.lstrip())
        assert spans[k][0] <= inked < spans[k][1] or k == len(spans) - 1
        spaced += start < spans[k][0] <= inked
    assert spaced > 0  # tokens that begin with the space of the sentence before
    values = np.arange(row.n_tokens, dtype=np.float64)
    assert sum_over_spans(values, row.offsets, spans, example.response).sum() == values.sum()


def test_white_space_alone_goes_by_its_first_character() -> None:
    text = "One.\n\n Two."
    offsets = [(0, 4), (4, 6), (6, 10), (10, 11), (11, 11)]
    assert span_of_tokens(offsets, [(0, 6), (6, 11)], text).tolist() == [0, 0, 1, 1, 1]
    assert span_of_tokens([(0, 4), (4, 7), (7, 11)], [(0, 7), (7, 11)], text).tolist() == [0, 0, 1]


def test_conv1d_layers_score_like_linear_ones(tokenizer, splits) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=512)
    config._attn_implementation = "eager"
    model = GPT2LMHeadModel(config).eval().double()
    train = [encode(tokenizer, e, end_token=True) for e in splits.train[::8]]
    factors = fit_factors(model, train, labels="empirical", progress=False)
    direction = precondition(factors, target_gradient(model, list(factors.layers), train[:2]))
    scores = token_scores(model, train[:2], {"t": direction}, progress=False)["t"]
    for row, found in zip(train[:2], scores, strict=True):
        expected = [
            sum(float((g.T.double() * v.double()).sum()) for g, v in zip(gs, direction.values(), strict=True))
            for gs in log_prob_gradients(model, row)
        ]
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.reliability(kind="bad input", title="influence with a damping or target that cannot be")
def test_bad_input_is_named(setting) -> None:
    model, train, targets, factors, directions = setting
    names = list(factors.layers)
    gradient = target_gradient(model, names, targets["math"])
    for damping in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ParameterError, match="damping"):
            precondition(factors, gradient, damping=damping)
    with pytest.raises(ParameterError, match="method"):
        precondition(factors, gradient, method="magic")
    with pytest.raises(ModelError, match="no layer"):
        precondition(factors, {"other": gradient[names[0]]})
    with pytest.raises(ParameterError, match="at least one correct response"):
        target_gradient(model, names, [])
    zero = {name: torch.zeros_like(part) for name, part in directions["math"].items()}
    with pytest.raises(NumericalError, match="all zero"):
        token_scores(model, train[:2], {"t": zero}, progress=False)
    bad = {name: part * float("nan") for name, part in directions["math"].items()}
    with pytest.raises(NumericalError, match="not finite"):
        token_scores(model, train[:2], {"t": bad}, progress=False)
