"""One training run and its exam: fine-tune, answer the test problems, grade, keep the answers.

Every arm, seed and subset of the study is such a run. A run's folder is named by the
digest of all that it depends on, so a study that asks for it again finds it, and one
that was interrupted continues with the runs that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from infra_lib.checksums import forget_checksum, how_damaged, is_intact, write_checksum
from infra_lib.closure import code_digest
from infra_lib.evaluate import accuracy
from infra_lib.evaluate.generate import Engine, Sampling, TransformersEngine, VllmEngine
from infra_lib.examples import Example
from infra_lib.files import digest_of, file_digest, replacing
from infra_lib.finetune import FinetuneConfig, check_weights, read_finished, run_key, weights_dtype
from infra_lib.finetune.launch import finetune_on
from infra_lib.finetune.store import weights_digest
from infra_lib.jobs import run_jobs
from infra_lib.models import load_model, load_tokenizer
from infra_lib.pretrain import verify_base


@dataclass(frozen=True)
class Run:
    """A run to do.

    Attributes
    ----------
    arm, base_seed, seed
        What the run is called in tables.
    base
        Folder of the base model.
    train, weights, test
        Training examples (none: the base itself sits the exam), their weights (None: equal), and the exam's
        problems.
    config
        Fine-tuning settings.
    sampling, engine
        How answers are drawn, and whether by ``transformers`` or ``vllm``.
    sandbox
        How programs are walled off while they are graded: ``auto``, ``bubblewrap`` or ``process``.
    root
        Folder that holds all runs.
    devices
        Processes that share the training, each with a device; more than one go through ``torchrun``.
    """

    arm: str
    base_seed: int
    seed: int
    base: Path
    train: Sequence[Example]
    test: Sequence[Example]
    config: FinetuneConfig
    root: Path
    sampling: Sampling = field(default_factory=Sampling)
    engine: str = "transformers"
    weights: Sequence[float] | None = None
    device: str = "cpu"
    devices: int = 1
    sandbox: str = "auto"
    labels: dict[str, str | int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Digest of everything that the trained weights depend on; of the base's weights where none are."""
        if not self.train:
            return weights_digest(self.base)
        return run_key(self.base, self.train, check_weights(self.weights, self.train), self.config, self.seed)

    @property
    def folder(self) -> Path:
        """Folder of the model that sits the exam."""
        return self.root / self.key[:20] if self.train else self.base

    @property
    def answers(self) -> Path:
        """Parquet file of the graded answers, named by model, exam and decoding."""
        problems = [[ex.id, ex.prompt, ex.system, ex.answer, ex.tests, ex.scoring] for ex in self.test]
        drawn = [self.engine, self.sampling.digest, self.sampling.samples]
        exam = digest_of([problems, drawn, code_digest("infra_lib.evaluate.accuracy")])
        return self.root / f"{self.key[:20]}-{exam[:12]}.parquet"


def is_done(run: Run) -> bool:
    """Return whether the run's model and answers are there and whole."""
    return is_intact(run.answers) and has_model(run)


def has_model(run: Run) -> bool:
    """Return whether the model of a run is there and whole; a base is checked by :func:`run_all`."""
    return not run.train or read_finished(run.folder, run.key) is not None


def train_and_evaluate(run: Run) -> pd.DataFrame:
    """Do one run, or read it back, and return its graded answers.

    Returns
    -------
    pandas.DataFrame
        One row per test problem: arm, base_seed, seed, the run's labels, id, domain, difficulty,
        category, sample, response, correct, reason.
    """
    if not is_done(run):
        if run.train:
            finetune_on(
                run.devices,
                run.base,
                run.train,
                run.config,
                seed=run.seed,
                folder=run.folder,
                weights=run.weights,
                device=run.device,
                progress=False,
            )
        graded = accuracy.evaluate(
            _engine(run),
            run.test,
            run.sampling,
            store=run.root / "drawn",
            isolation=run.sandbox,
            progress=False,
        )
        forget_checksum(run.answers)
        with replacing(run.answers) as temporary:
            graded.to_parquet(temporary, index=False)
        write_checksum(run.answers)
    return read_answers(run)


def read_answers(run: Run) -> pd.DataFrame:
    """Return the graded answers of a finished run, with its names in front."""
    frame = pd.read_parquet(run.answers)
    names = {"arm": run.arm, "base_seed": run.base_seed, "seed": run.seed, **run.labels}
    for position, (name, value) in enumerate(names.items()):
        frame.insert(position, name, value)
    return frame


def _engine(run: Run) -> Engine:
    """Return what draws the answers of a run's model."""
    if run.engine == "vllm":
        return VllmEngine(run.folder, devices=run.devices, identity=run.key)
    dtype = weights_dtype(run.config.precision) if run.device.startswith("cuda") else torch.float32
    model = load_model(run.folder, dtype=dtype, device=run.device, attn_implementation="sdpa")
    size = 64 if run.device == "cpu" else None
    return TransformersEngine(model, load_tokenizer(run.folder), batch_size=size, identity=run.key)


def run_all(runs: Sequence[Run], *, processes: int = 2, progress: bool = True) -> pd.DataFrame:
    """Do many runs in parallel processes and return all graded answers, in the order of the runs.

    A run whose model or answers are torn or changed is done again, with a line that says so.

    Raises
    ------
    ModelError
        For a base model of this project that is not the recorded one, before anything is trained.
    """
    for base in sorted({run.base for run in runs}):
        if (base / "provenance.json").is_file():
            verify_base(base)
    missing = list({run.answers: run for run in runs if not is_done(run)}.values())
    for run in missing:
        if run.answers.is_file() and not is_intact(run.answers):
            tqdm.write(f"{run.answers.name} {how_damaged(run.answers)}; the exam is taken again")
        if run.folder.is_dir() and not has_model(run):
            tqdm.write(f"the model in {run.folder.name} is torn or changed; it is trained again")
    if missing:
        run_jobs(train_and_evaluate, missing, processes=processes, label="training runs", progress=progress)
    return pd.concat([read_answers(run) for run in runs], ignore_index=True)


def identity_of(folder: Path) -> str:
    """Return the digest of a model folder's weights."""
    return file_digest(folder / "model.safetensors")
