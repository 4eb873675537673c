"""Retraining: each result is whole or absent, is not made twice, and says what the model says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from infra_lib.checksums import checksum_path
from infra_lib.errors import ParameterError
from infra_lib.finetune import FinetuneConfig, finetune
from infra_lib.models import encode, load_model
from infra_lib.responses import token_log_probs
from infra_lib.validation import retraining
from infra_lib.validation.retraining import Setting, retrain, retrainings, run_all, target_values
from infra_lib.validation.subsets import half_subsets

CONFIG = FinetuneConfig(epochs=1, batch_size=2, learning_rate=1e-3)


@pytest.fixture
def setting(model_folder, splits, tmp_path):
    return Setting(
        base=model_folder,
        train=tuple(splits.train[:8]),
        targets=tuple(splits.target[:3]),
        config=CONFIG,
        folder=tmp_path / "retrained",
    )


def _jobs(setting, count=2, seeds=(0,)):
    membership = half_subsets([ex.id for ex in setting.train], count)
    return retrainings(setting, membership, [list(seeds)] * count)


def test_a_result_is_what_the_retrained_model_says(setting, model_folder, tmp_path, tokenizer) -> None:
    (job,) = _jobs(setting, 1)
    (values,) = run_all([job], processes=1, progress=False)
    chosen = [setting.train[row] for row in job.members]
    assert len(chosen) == 4
    folder = finetune(model_folder, chosen, CONFIG, seed=0, folder=tmp_path / "by_hand", progress=False)
    model = load_model(folder)
    for example, found in zip(setting.targets, values, strict=True):
        row = encode(tokenizer, example, end_token=True)
        batch = _alone(row)
        with torch.no_grad():
            expected = token_log_probs(model, batch)[batch.loss_mask].numpy()
        assert found == pytest.approx(expected, abs=1e-4)
    assert [p.name for p in setting.folder.iterdir() if p.is_dir()] == []


def _alone(row):
    from infra_lib.models import batches

    return batches([row], batch_tokens=10_000, pad_id=0)[0]


@pytest.mark.reliability(kind="fault", title="retrainings interrupted half-way")
def test_an_interrupted_run_goes_on_with_what_is_missing(setting, monkeypatch) -> None:
    jobs = _jobs(setting, 3)
    trained = []

    def counted(base, examples, *arguments, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(len(examples))
        return finetune(base, examples, *arguments, **options)

    monkeypatch.setattr(retraining, "finetune", counted)
    retrain(jobs[0])
    retrain(jobs[1])
    with pytest.raises(KeyboardInterrupt):
        retrain(jobs[2])
    assert [retraining.is_done(job) for job in jobs] == [True, True, False]
    before = [job.path.stat().st_mtime_ns for job in jobs[:2]]
    monkeypatch.setattr(retraining, "finetune", finetune)
    assert [retrain(job) for job in jobs] == [job.path for job in jobs]
    assert [job.path.stat().st_mtime_ns for job in jobs[:2]] == before
    assert all(retraining.is_done(job) for job in jobs)
    assert not any(p.suffix == ".model" for p in setting.folder.iterdir())


@pytest.mark.reliability(kind="fault", title="a stored retraining is torn")
def test_a_torn_result_is_made_again_and_is_the_same(setting, capsys) -> None:
    jobs = _jobs(setting, 1)
    retrain(jobs[0])
    first = retraining.read(jobs[0])
    stored = jobs[0].path.read_bytes()
    jobs[0].path.write_bytes(stored[:-9])
    (second,) = run_all(jobs, processes=1, progress=False)
    assert "torn" in capsys.readouterr().out
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    checksum_path(jobs[0].path).unlink()
    assert not retraining.is_done(jobs[0])


def test_a_result_is_named_by_all_that_it_depends_on(setting, splits) -> None:
    (job,) = _jobs(setting, 1)
    others = [
        _jobs(setting, 1, seeds=(1,))[0],
        _jobs(setting, 2)[1],
        _jobs(replace(setting, config=replace(CONFIG, epochs=2)), 1)[0],
        _jobs(replace(setting, targets=tuple(splits.target[:2])), 1)[0],
        _jobs(replace(setting, train=tuple(splits.train[:8][::-1])), 1)[0],
    ]
    assert len({job.path, *(other.path for other in others)}) == 6
    assert _jobs(setting, 1)[0].path == job.path


def test_seeds_change_the_outcome(setting) -> None:
    jobs = _jobs(setting, 1, seeds=(0, 1))
    same, other = [retrain(job) and retraining.read(job) for job in jobs]
    assert not np.allclose(np.concatenate(same), np.concatenate(other))


def test_target_values_sum_the_tokens_that_count() -> None:
    results = [[np.array([-1.0, -2.0]), np.array([-4.0, -8.0, -16.0])]] * 2
    masks = [np.array([True, False]), np.array([False, True, True])]
    assert target_values(results, masks).tolist() == [[-1.0, -24.0]] * 2
    with pytest.raises(ParameterError, match="masks"):
        target_values(results, masks[:1])


@pytest.mark.reliability(kind="bad input", title="subsets of another training set")
def test_subsets_of_another_set_are_refused(setting) -> None:
    with pytest.raises(ParameterError, match="membership"):
        retrainings(setting, np.ones((2, 5), dtype=bool), [[0], [0]])
    with pytest.raises(ParameterError, match="empty"):
        retrainings(setting, np.zeros((1, 8), dtype=bool), [[0]])
