"""A checkpoint counts when it is whole; a torn one is removed and the whole one before it used."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from infra_lib.errors import InfraError
from infra_lib.finetune import FinetuneConfig, WeightedTrainer, finetune
from infra_lib.finetune.checkpoints import WholeCheckpoints, is_whole, last_whole_checkpoint

CONFIG = FinetuneConfig(epochs=2, batch_size=8, learning_rate=1e-2)


def checkpoint(work, step: int, *, mark: bool = True):
    folder = work / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * step)
    if mark:
        WholeCheckpoints().on_save(SimpleNamespace(output_dir=work), SimpleNamespace(global_step=step), None)
    return folder


def test_an_older_checkpoint_goes_when_the_newer_one_is_whole(tmp_path) -> None:
    first = checkpoint(tmp_path, 9)
    second = checkpoint(tmp_path, 10)
    assert not first.exists()
    assert last_whole_checkpoint(tmp_path) == second


@pytest.mark.parametrize("damage", ["unmarked", "shorter", "missing", "marker"])
def test_a_torn_checkpoint_is_passed_over_and_removed(tmp_path, damage) -> None:
    whole = checkpoint(tmp_path, 1)
    torn = checkpoint(tmp_path, 2, mark=False)
    if damage != "unmarked":
        aside = whole.rename(tmp_path / "aside")
        WholeCheckpoints().on_save(SimpleNamespace(output_dir=tmp_path), SimpleNamespace(global_step=2), None)
        aside.rename(whole)
    if damage == "shorter":
        (torn / "model.safetensors").write_bytes(b"w")
    if damage == "missing":
        (torn / "model.safetensors").unlink()
    if damage == "marker":
        (torn / "SHA256SUMS").write_text("{")
    assert not is_whole(torn)
    assert last_whole_checkpoint(tmp_path) == whole
    assert not torn.exists()


@pytest.mark.reliability(kind="fault", title="a training killed while it tidies up")
def test_what_a_kill_leaves_of_checkpoints_does_not_claim_to_be_whole(
    model_folder, splits, tmp_path, monkeypatch
) -> None:
    from infra_lib.finetune import checkpoints

    def killed(*_, **__):
        raise KeyboardInterrupt

    options = {"seed": 0, "folder": tmp_path / "a", "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(model_folder, splits.train[:16], CONFIG, **options)
    # Between the first checkpoint's removal and the next step: files without a list.
    (work,) = tmp_path.glob("a.*.part")
    left = [folder for folder in work.glob("checkpoint-*") if not is_whole(folder)]
    assert left
    assert not any((folder / "SHA256SUMS").exists() for folder in left)
    finetune(model_folder, splits.train[:16], CONFIG, **options)
    assert not work.exists()
    # Between the model's taking its place and the end of its tidying.
    work.mkdir()
    checkpoint(work, 4)
    finetune(model_folder, splits.train[:16], CONFIG, **options)
    assert not work.exists()


@pytest.mark.reliability(kind="fault", title="a training killed while it writes a checkpoint")
def test_a_run_killed_while_it_wrote_a_checkpoint_ends_in_the_same_model(
    model_folder, splits, tmp_path, monkeypatch
) -> None:
    """The second epoch's checkpoint is cut short: its weights are there, its state is not."""
    from infra_lib.files import file_digest

    whole = finetune(model_folder, splits.train[:16], CONFIG, seed=0, folder=tmp_path / "a", progress=False)
    original = WeightedTrainer._save_optimizer_and_scheduler

    def killed(self, folder):
        if folder.endswith("checkpoint-4"):
            raise KeyboardInterrupt
        return original(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(WeightedTrainer, "_save_optimizer_and_scheduler", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(model_folder, splits.train[:16], CONFIG, seed=0, folder=tmp_path / "b", progress=False)
    (work,) = tmp_path.glob("b.*.part")
    assert (work / "checkpoint-4" / "model.safetensors").is_file()
    steps = []
    loss = WeightedTrainer.compute_loss
    monkeypatch.setattr(
        WeightedTrainer, "compute_loss", lambda self, *a, **k: steps.append(1) or loss(self, *a, **k)
    )
    again = finetune(model_folder, splits.train[:16], CONFIG, seed=0, folder=tmp_path / "b", progress=False)
    assert len(steps) == 8, "only the second epoch's two steps of four parts were trained again"
    assert file_digest(whole / "model.safetensors") == file_digest(again / "model.safetensors")
    assert not work.exists()


@pytest.mark.reliability(kind="fault", title="two trainings in one folder")
def test_two_processes_cannot_train_in_one_folder(model_folder, splits, tmp_path, monkeypatch) -> None:
    from infra_lib.finetune import run

    def second(*_, **__):
        finetune(model_folder, splits.train[:8], CONFIG, seed=0, folder=tmp_path / "a", progress=False)

    monkeypatch.setattr(run, "_train", second)
    with pytest.raises(InfraError, match="another process trains"):
        second()
