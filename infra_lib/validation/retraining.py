"""Train again on chosen examples, and keep what each model says of the targets.

A result is the log-probability of every token of every target response: a few kilobytes, from which
targets of any kind can be formed later. The model itself is thrown away. Results lie in one folder,
each under a digest of all that it depends on, whole or absent, with a checksum: what was interrupted
goes on with those that are missing, and a torn one is made again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from infra_lib.checksums import forget_checksum, is_intact, write_checksum
from infra_lib.closure import code_digest
from infra_lib.device import read_back
from infra_lib.errors import ParameterError
from infra_lib.examples import Example
from infra_lib.files import digest_of, replacing
from infra_lib.finetune import FinetuneConfig, finetune, run_key
from infra_lib.jobs import run_jobs
from infra_lib.models import Encoded, batches, encode, load_model, load_tokenizer
from infra_lib.responses import response_log_probs

NO_CHECKPOINTS = 10**6
"""Steps between checkpoints: a retraining takes seconds and is begun again rather than continued."""


@dataclass(frozen=True)
class Setting:
    """What all retrainings have in common.

    Attributes
    ----------
    base
        Folder of the model that each training starts from.
    train
        The examples that subsets are taken from.
    targets
        Responses whose tokens are measured.
    config
        Fine-tuning settings.
    folder
        Where results go.
    """

    base: Path
    train: tuple[Example, ...]
    targets: tuple[Example, ...]
    config: FinetuneConfig
    folder: Path
    device: str = "cpu"
    max_tokens: int | None = None

    @cached_property
    def digest(self) -> str:
        """Digest of all that a result depends on besides its subset and seed."""
        equal = [1.0] * len(self.train)
        measured = [[ex.prompt, ex.system, ex.response] for ex in self.targets]
        return digest_of(
            [
                run_key(self.base, self.train, equal, self.config, 0),
                measured,
                self.max_tokens,
                code_digest("infra_lib.responses", "infra_lib.models"),
            ]
        )

    def encoded(self, tokenizer: Any, examples: Sequence[Example]) -> list[Encoded]:
        """Return examples in tokens, as in fine-tuning."""
        return [
            encode(
                tokenizer,
                example,
                end_token=self.config.end_token,
                chat_template=self.config.chat_template,
                max_tokens=self.max_tokens,
            )
            for example in examples
        ]


@dataclass(frozen=True)
class Retraining:
    """One retraining.

    Attributes
    ----------
    digest
        Of the setting; :func:`retrainings` fills it in, once for all.
    members
        Rows of the setting's training examples to train on.
    seed
        Of the order in which they are seen.
    """

    setting: Setting
    digest: str
    members: tuple[int, ...]
    seed: int

    @property
    def path(self) -> Path:
        """Parquet file of the result."""
        name = digest_of([self.digest, self.members, self.seed])
        return self.setting.folder / f"{name[:24]}.parquet"


def retrainings(setting: Setting, membership: np.ndarray, seeds: Sequence[Sequence[int]]) -> list[Retraining]:
    """Return one retraining for each subset and each of its seeds, subset by subset.

    Parameters
    ----------
    membership
        bool [subsets, examples].
    seeds
        For each subset, the seeds of its retrainings.

    Raises
    ------
    ParameterError
        For subsets of another number of examples, or an empty one.
    """
    if membership.ndim != 2 or membership.shape[1] != len(setting.train):
        raise ParameterError("membership", membership.shape, f"[subsets, {len(setting.train)}]")
    if not membership.any(axis=1).all():
        raise ParameterError("membership", "an empty subset", "at least one example in each subset")
    return [
        Retraining(setting, setting.digest, tuple(np.flatnonzero(row).tolist()), seed)
        for row, own in zip(membership, seeds, strict=True)
        for seed in own
    ]


def is_done(job: Retraining) -> bool:
    """Return whether a retraining's result is there and whole."""
    return is_intact(job.path)


def retrain(job: Retraining) -> Path:
    """Train on the subset, measure the targets, and keep the result; return its file.

    A result that is there and whole is left as it is.
    """
    if is_done(job):
        return job.path
    setting, started = job.setting, time.perf_counter()
    setting.folder.mkdir(parents=True, exist_ok=True)
    model_folder = job.path.with_suffix(".model")
    finetune(
        setting.base,
        [setting.train[row] for row in job.members],
        replace(setting.config, checkpoint_steps=NO_CHECKPOINTS),
        seed=job.seed,
        folder=model_folder,
        device=setting.device,
        progress=False,
    )
    model = load_model(model_folder, device=setting.device, attn_implementation="sdpa")
    tokenizer = load_tokenizer(model_folder)
    values = log_probs(model, setting.encoded(tokenizer, setting.targets), pad_id=tokenizer.pad_token_id or 0)
    table = pa.table(
        {
            "row": pa.array(range(len(values)), pa.int32()),
            "log_probs": pa.array(values, pa.list_(pa.float32())),
        }
    )
    note = {
        "seed": job.seed,
        "examples": len(job.members),
        "seconds": round(time.perf_counter() - started, 2),
    }
    forget_checksum(job.path)
    with replacing(job.path) as temporary:
        pq.write_table(
            table.replace_schema_metadata({f"infra-{k}": str(v) for k, v in note.items()}), temporary
        )
    # The model goes first: who is killed in between trains again, and leaves no model that nobody asks for.
    shutil.rmtree(model_folder)
    write_checksum(job.path)
    return job.path


@torch.no_grad()
def log_probs(
    model: Any, encoded: Sequence[Encoded], *, pad_id: int = 0, batch_tokens: int = 4096
) -> list[np.ndarray]:
    """Return the log-probability of each response token, one array [response tokens] per example."""
    found: list[np.ndarray] = [np.empty(0)] * len(encoded)
    groups = batches(encoded, batch_tokens=batch_tokens, pad_id=pad_id)
    computed = ((response_log_probs(model, batch.to(model.device)).float(), batch) for batch in groups)
    for values, batch in read_back(computed):
        for row, own in batch.by_row(values):
            found[row] = own
    return found


def run_all(
    jobs: Sequence[Retraining], *, processes: int = 2, label: str = "retraining", progress: bool = True
) -> list[list[np.ndarray]]:
    """Do the retrainings that are missing, in parallel processes, and return all results in order.

    Returns
    -------
    list
        Per retraining, per target response: log-probabilities [response tokens].
    """
    missing = list({job.path: job for job in jobs if not is_done(job)}.values())
    if torn := sum(job.path.is_file() and not is_intact(job.path) for job in missing):
        tqdm.write(f"{torn} results of {label} are torn or changed; they are made again")
    if missing:
        run_jobs(retrain, missing, processes=processes, label=label, progress=progress)
    return [read(job) for job in jobs]


def read(job: Retraining) -> list[np.ndarray]:
    """Return the stored log-probabilities of a retraining, one array per target response."""
    column = pq.read_table(job.path).column("log_probs")
    return [np.asarray(values, dtype=np.float32) for values in column.to_pylist()]


def target_values(results: Sequence[Sequence[np.ndarray]], masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return each target response's log-likelihood over the tokens of its mask.

    Parameters
    ----------
    results
        As :func:`run_all` gives them.
    masks
        Per target response: bool [response tokens].

    Returns
    -------
    numpy.ndarray
        float64 [retrainings, target responses], in nats.
    """
    joined = np.stack([np.concatenate(rows).astype(np.float64) for rows in results])
    counted = np.concatenate(masks)
    if joined.shape[1] != len(counted):
        raise ParameterError("masks", len(counted), f"as long as the responses, {joined.shape[1]} tokens")
    ends = np.cumsum([len(mask) for mask in masks])[:-1]
    return np.add.reduceat(joined * counted, np.concatenate([[0], ends]), axis=1)
