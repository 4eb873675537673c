"""Fine-tuning: the weighted loss is what it says, and runs resume, repeat and refuse as they should."""

from __future__ import annotations

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_qwen2
from typer.testing import CliRunner

from infra_lib.cli import app
from infra_lib.errors import ModelError, NumericalError, ParameterError
from infra_lib.files import write_sealed
from infra_lib.finetune import FinetuneConfig, WeightedTrainer, check_weights, finetune
from infra_lib.finetune.batches import Collator, MicroBatches, Rows
from infra_lib.models import check_model_folder, encode
from infra_lib.verify import verify_folder

CONFIG = FinetuneConfig(epochs=2, batch_size=8, learning_rate=1e-2)


def weights_of(folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def same(a, b) -> bool:
    left, right = weights_of(a), weights_of(b)
    return all(torch.equal(left[name], right[name]) for name in left)


ALONE = SimpleNamespace(accelerator=SimpleNamespace(num_processes=1))


def batch_of(tokenizer, examples, weights):
    rows = Rows([encode(tokenizer, e, end_token=True) for e in examples], weights)
    return Collator(0)([rows[tuple(range(len(rows)))]])


def loss_of(model, batch) -> torch.Tensor:
    return WeightedTrainer.compute_loss(ALONE, model, dict(batch))


def test_loss_is_the_weighted_sum_over_response_tokens(tokenizer, splits) -> None:
    model, examples, weights = tiny_qwen2(len(tokenizer)), splits.train[:4], [0.5, 2.0, 1.0, 0.5]
    expected, count = 0.0, 0
    for example, weight in zip(examples, weights, strict=True):
        row = encode(tokenizer, example, end_token=True)
        logits = model(row.input_ids[None]).logits[0].log_softmax(-1)
        terms = torch.stack([-logits[t - 1, row.input_ids[t]] for t in torch.where(row.loss_mask)[0]])
        expected, count = expected + weight * terms.sum(), count + len(terms)
    assert torch.allclose(loss_of(model, batch_of(tokenizer, examples, weights)), expected / count, rtol=1e-5)


@pytest.mark.reliability(kind="fault", title="a training whose loss becomes no number")
def test_a_training_that_diverges_is_named_and_leaves_no_model(model_folder, splits, tmp_path) -> None:
    wild = dataclasses.replace(CONFIG, learning_rate=1e30, epochs=3, warmup_fraction=0.0)
    with pytest.raises(NumericalError, match=r"training loss is (nan|inf) at step \d+.*learning_rate"):
        finetune(model_folder, splits.train, wild, seed=0, folder=tmp_path / "wild", progress=False)
    assert not (tmp_path / "wild").exists()


def test_weight_two_has_the_gradient_of_a_doubled_example(tokenizer, splits) -> None:
    model = tiny_qwen2(len(tokenizer))
    a, b = splits.train[0], splits.train[-1]
    grads = []
    for examples, weights in (([a, b], [2.0, 1.0]), ([a, a, b], [1.0, 1.0, 1.0])):
        model.zero_grad()
        batch = batch_of(tokenizer, examples, weights)
        tokens = torch.tensor(1)  # the same count on both sides, as over a whole data set
        WeightedTrainer.compute_loss(ALONE, model, dict(batch), num_items_in_batch=tokens).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-5)


def test_weights_are_scaled_to_mean_one(splits) -> None:
    scaled = check_weights([1.0, 3.0], splits.train[:2])
    assert scaled == [0.5, 1.5]
    assert check_weights(None, splits.train[:3]) == [1.0] * 3


@pytest.mark.reliability(kind="bad input", title="a training weight that is zero, negative or not finite")
@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "2"])
def test_a_weight_that_cannot_be_is_named_with_its_example(splits, weight) -> None:
    with pytest.raises(ParameterError, match=rf"weights\[{splits.train[1].id}\]"):
        check_weights([1.0, weight], splits.train[:2])


def test_equal_weights_of_any_size_train_the_same_model(model_folder, splits, tmp_path) -> None:
    examples = splits.train[:16]
    one = finetune(model_folder, examples, CONFIG, seed=0, folder=tmp_path / "a", progress=False)
    two = finetune(
        model_folder, examples, CONFIG, seed=0, folder=tmp_path / "b", weights=[7.0] * 16, progress=False
    )
    assert same(one, two)


def test_same_seed_same_model_and_another_seed_another(model_folder, splits, tmp_path) -> None:
    runs = [
        finetune(model_folder, splits.train, CONFIG, seed=seed, folder=tmp_path / name, progress=False)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def leave_it(checkpoint) -> None:
    pass


def change_a_byte(checkpoint) -> None:
    path = checkpoint / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def take_a_file(checkpoint) -> None:
    (checkpoint / "scheduler.pt").unlink()


def leave_it_unfinished(checkpoint) -> None:
    (checkpoint / "SHA256SUMS").unlink()


@pytest.mark.reliability(
    kind="fault", title="a training run interrupted in an epoch, its checkpoint whole, changed or unfinished"
)
@pytest.mark.parametrize("damage", [leave_it, change_a_byte, take_a_file, leave_it_unfinished])
def test_interrupted_run_continues_to_the_same_model(
    model_folder, splits, tmp_path, monkeypatch, damage, capsys, record_property
) -> None:
    whole = finetune(model_folder, splits.train, CONFIG, seed=0, folder=tmp_path / "whole", progress=False)
    original = WeightedTrainer.compute_loss
    steps = 0

    def failing(self, *args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == 30:  # five steps of four parts are an epoch: the second is under way
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(WeightedTrainer, "compute_loss", failing)
    with pytest.raises(KeyboardInterrupt):
        finetune(model_folder, splits.train, CONFIG, seed=0, folder=tmp_path / "cut", progress=False)
    assert not (tmp_path / "cut").exists()
    damage(next(tmp_path.glob("cut.*.part/checkpoint-*")))
    before = steps
    resumed = finetune(model_folder, splits.train, CONFIG, seed=0, folder=tmp_path / "cut", progress=False)
    whole_checkpoint = damage is leave_it
    assert steps - before == (20 if whole_checkpoint else 40), "a whole first epoch is not trained again"
    problem = {leave_it_unfinished: "was not finished"}.get(damage, "is torn or changed")
    assert (problem in capsys.readouterr().out) != whole_checkpoint
    assert same(whole, resumed)
    record_property("outcome", "training goes on from what is whole, to the same model")


def test_finished_run_is_read_back_unless_something_changed(
    model_folder, splits, tmp_path, monkeypatch
) -> None:
    folder = finetune(model_folder, splits.train, CONFIG, seed=0, folder=tmp_path / "a", progress=False)
    record = json.loads((folder / "run.json").read_text())
    assert record["steps"] == 10
    assert record["loss_curve"]
    with monkeypatch.context() as patch:
        patch.setattr(WeightedTrainer, "compute_loss", lambda *_: pytest.fail("trained again"))
        finetune(model_folder, splits.train, CONFIG, seed=0, folder=folder, progress=False)
    (folder / "model.safetensors").write_bytes(b"torn")
    finetune(model_folder, splits.train, CONFIG, seed=0, folder=folder, progress=False)
    assert json.loads((folder / "run.json").read_text())["files"] == record["files"]


@pytest.mark.reliability(kind="fault", title="one byte of each file of a fine-tuned model changed")
def test_a_changed_byte_of_a_model_is_found_before_it_is_used(
    model_folder, splits, tmp_path, record_property
) -> None:
    folder = finetune(model_folder, splits.train, CONFIG, seed=0, folder=tmp_path / "a", progress=False)
    command = ["verify", "--folder", str(folder)]
    assert CliRunner().invoke(app, command).exit_code == 0
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in paths:
        before = path.read_bytes()
        path.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
        with pytest.raises(ModelError, match="changed since"):
            check_model_folder(folder)
        found = CliRunner().invoke(app, command)
        assert found.exit_code == 1
        assert path.name in found.output
        path.write_bytes(before)
    check_model_folder(folder)
    record_property("inputs", len(paths))
    record_property("outcome", "infra verify --folder names it, and the model is not loaded")


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"/dev/zero": "x"}, "files must give digests"),
        ({"../x": "x"}, "files must give"),
        ({"a\0b": "x"}, "files must give"),
        ([], "files must give"),
    ],
)
@pytest.mark.reliability(kind="bad input", title="a model's record that names files elsewhere")
def test_a_record_that_leads_out_of_its_folder_is_refused(model_folder, tmp_path, files, problem) -> None:
    shutil.copytree(model_folder, tmp_path / "m")
    write_sealed(tmp_path / "m" / "run.json", {"files": files})
    with pytest.raises(ModelError, match=problem):
        check_model_folder(tmp_path / "m")
    found = verify_folder(tmp_path / "m", progress=False)
    assert found.tallies["models"].torn_or_changed == 1
    assert "lists files in another form than names below its own folder" in found.problems[0]
    (tmp_path / "m" / "run.json").write_text('{"of": "another program"}')
    check_model_folder(tmp_path / "m")


@pytest.mark.reliability(kind="bad input", title="a folder to verify that no command wrote")
def test_a_folder_of_nobody_is_named(tmp_path) -> None:
    with pytest.raises(ParameterError, match=r"parameter --folder is .* a folder with one of provenance"):
        verify_folder(tmp_path)


def test_training_lowers_the_loss(model_folder, splits, tmp_path) -> None:
    config = dataclasses.replace(CONFIG, epochs=6)
    folder = finetune(model_folder, splits.train, config, seed=0, folder=tmp_path / "a", progress=False)
    curve = [loss for _, loss in json.loads((folder / "run.json").read_text())["loss_curve"]]
    assert sum(curve[-5:]) < 0.8 * sum(curve[:5])


@pytest.mark.reliability(kind="bad input", title="fine-tuning from a base that is not there")
def test_missing_base_is_named_before_anything_runs(splits, tmp_path) -> None:
    with pytest.raises(ModelError, match="neither a model folder"):
        finetune(tmp_path / "none", splits.train, CONFIG, seed=0, folder=tmp_path / "a")
    assert not any(tmp_path.iterdir())


def test_epochs_of_a_run_differ_and_follow_the_seed(model_folder, splits, tmp_path, monkeypatch) -> None:
    seen: list[list[int]] = []
    original = MicroBatches.__iter__

    def watching(self):
        order = list(original(self))
        seen.append(order)
        return iter(order)

    monkeypatch.setattr(MicroBatches, "__iter__", watching)
    finetune(model_folder, splits.train, CONFIG, seed=0, folder=tmp_path / "a", progress=False)
    assert len(seen) == 2
    assert seen[0] != seen[1]


def test_taking_a_batch_in_parts_trains_the_same_model(model_folder, splits, tmp_path) -> None:
    parts = finetune(model_folder, splits.train, CONFIG, seed=0, folder=tmp_path / "parts", progress=False)
    config = dataclasses.replace(CONFIG, gradient_accumulation=1)
    whole = finetune(model_folder, splits.train, config, seed=0, folder=tmp_path / "whole", progress=False)
    left, right = weights_of(parts), weights_of(whole)
    assert all(torch.allclose(left[name], right[name], atol=2e-3) for name in left)
