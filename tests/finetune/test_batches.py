"""Steps hold the same examples for any number of processes; a packed row keeps its examples apart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_qwen2
from hypothesis import given, settings
from hypothesis import strategies as st

from infra_lib.errors import ParameterError
from infra_lib.finetune import IGNORED
from infra_lib.finetune import trainer as trainer_module
from infra_lib.finetune.batches import Collator, MicroBatches, Rows, check_packing
from infra_lib.finetune.trainer import WeightedTrainer, weighted_loss
from infra_lib.models import encode

LENGTHS = [7, 3, 9, 1, 5, 2, 8, 6, 4, 10]


@pytest.fixture(scope="module")
def rows(tokenizer, splits) -> Rows:
    examples = splits.train[:3] + splits.train[-3:]
    return Rows([encode(tokenizer, e, end_token=True) for e in examples], [0.5, 2.0, 1.0, 0.25, 1.5, 0.75])


def steps(sampler: MicroBatches, parts: int) -> list[list[tuple[int, ...]]]:
    groups = list(sampler)
    assert len(groups) == len(sampler)
    return [groups[i : i + parts] for i in range(0, len(groups), parts)]


def examples_of(step) -> list[int]:
    return sorted(index for group in step for index in group)


def test_every_epoch_takes_every_example_once_in_another_order() -> None:
    sampler = MicroBatches(LENGTHS, 4, seed=1)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        order = [index for group in sampler for index in group]
        assert sorted(order) == list(range(10))
        epochs.append(order)
    assert epochs[0] != epochs[1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
)
def test_steps_hold_the_same_examples_for_any_split_and_each_process_equally_many_parts(
    lengths, batch_size, processes, accumulation, packing
) -> None:
    alone = steps(MicroBatches(lengths, batch_size, seed=0), 1)
    shared = steps(
        MicroBatches(
            lengths, batch_size, seed=0, processes=processes, accumulation=accumulation, packing=packing
        ),
        processes * accumulation,
    )
    assert [examples_of(step) for step in alone] == [examples_of(step) for step in shared]
    assert all(len(step) == processes * accumulation for step in shared[:-1])
    assert len(shared[-1]) % processes == 0


def test_padded_parts_hold_like_lengths_and_packed_parts_like_totals() -> None:
    (padded,) = steps(MicroBatches(LENGTHS, 10, seed=0, accumulation=2), 2)
    assert max(LENGTHS[i] for i in padded[0]) <= min(LENGTHS[i] for i in padded[1])
    (packed,) = steps(MicroBatches(LENGTHS, 10, seed=0, accumulation=2, packing=True), 2)
    totals = [sum(LENGTHS[i] for i in group) for group in packed]
    assert abs(totals[0] - totals[1]) <= 1


def gradients(model, batch) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    alone = SimpleNamespace(accelerator=SimpleNamespace(num_processes=1))
    loss = WeightedTrainer.compute_loss(alone, model, dict(batch))
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_and_padded_rows_have_the_same_loss_and_gradients(tokenizer, rows, attention) -> None:
    model = tiny_qwen2(len(tokenizer))
    model.set_attn_implementation(attention)
    group = [rows[tuple(range(6))]]
    loss, gradient = gradients(model, Collator(0)(group))
    packed_loss, packed_gradient = gradients(model, Collator(0, packing=True)(group))
    assert torch.allclose(loss, packed_loss, rtol=1e-5)
    assert torch.allclose(gradient, packed_gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


def test_another_first_example_leaves_the_logits_of_the_second_as_they_are(tokenizer, rows) -> None:
    model = tiny_qwen2(len(tokenizer))
    seen = []
    for first in (0, 1):
        batch = Collator(0, packing=True)([rows[(first, 2)]])
        inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
        seen.append(model(**inputs, use_cache=False).logits[0, rows.lengths[first] :])
    assert torch.allclose(*seen, atol=1e-5)


def test_the_first_token_of_a_packed_example_is_not_predicted(rows) -> None:
    batch = Collator(0, packing=True)([rows[(0, 1)]])
    start = rows.lengths[0]
    assert batch["position_ids"][0, start] == 0
    assert batch["labels"][0, start] == IGNORED
    assert int((batch["labels"] != IGNORED).sum()) == sum(
        int((rows.rows[i]["labels"] != IGNORED).sum()) for i in (0, 1)
    )


@pytest.mark.parametrize("packing", [False, True])
def test_an_empty_part_has_no_loss_and_no_gradient(tokenizer, rows, packing) -> None:
    model = tiny_qwen2(len(tokenizer))
    batch = Collator(0, packing=packing)([rows[()]])
    alone = SimpleNamespace(accelerator=SimpleNamespace(num_processes=1))
    loss = WeightedTrainer.compute_loss(alone, model, batch, num_items_in_batch=torch.tensor(5))
    loss.backward()
    assert loss == 0
    assert all(not p.grad.any() for p in model.parameters())


def test_a_loss_in_pieces_is_the_loss_in_one(monkeypatch) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 9, 13, requires_grad=True)
    labels = torch.randint(0, 13, (2, 9))
    labels[0, :4] = IGNORED
    weights = torch.rand(2, 9)
    whole = weighted_loss(logits, labels, weights)
    (gradient,) = torch.autograd.grad(whole, logits)
    monkeypatch.setattr(trainer_module, "CHUNK_ELEMENTS", 13 * 3)
    pieces = weighted_loss(logits, labels, weights)
    assert torch.allclose(whole, pieces)
    assert torch.allclose(gradient, torch.autograd.grad(pieces, logits)[0])


@pytest.mark.reliability(kind="bad input", title="packing for a model that mixes examples")
def test_packing_is_refused_for_a_model_that_mixes_examples(tokenizer) -> None:
    model = tiny_qwen2(len(tokenizer))
    check_packing(model)
    plain = type(model).forward

    def forgetful(self, *args, position_ids=None, **kwargs):
        return plain(self, *args, **kwargs)

    model.forward = forgetful.__get__(model)
    with pytest.raises(ParameterError, match=r"packing is True.*does not keep examples apart"):
        check_packing(model)


@pytest.mark.reliability(kind="bad input", title="packing for a recurrent model")
def test_packing_is_refused_for_a_recurrent_model() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.5
    )
    with pytest.raises(ParameterError, match="MambaForCausalLM"):
        check_packing(MambaForCausalLM(config))
