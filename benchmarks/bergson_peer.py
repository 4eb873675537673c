"""The same attribution in bergson: its steps for factored curvature, as its own pipeline calls them.

bergson (EleutherAI) is a library of attribution methods for language models that work from files: a saved
model, saved token ids, an index of gradients, a folder of scores. It is used here as its ``hessian_pipeline``
goes, step by step, with MLP linears alone, the summed cross-entropy of the response's tokens, and a target's
gradient as the mean over its examples.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bergson.build import build
from bergson.config.config import (
    DataConfig,
    DistributedConfig,
    HessianConfig,
    IndexConfig,
    InversionConfig,
    PreprocessConfig,
    ScoreConfig,
)
from bergson.data import create_index, load_gradients, load_scores
from bergson.hessians.apply_hessian import EkfacConfig, apply_worker
from bergson.hessians.hessian_approximations import approximate_hessians
from bergson.score.score import score_dataset
from datasets import Dataset
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from infra_lib.curvature import Factors
from infra_lib.models import Encoded

IGNORED = -100
NOT_MLP = "*self_attn*"
"""Glob of the linears that are left out: what is left of the decoder's are its MLPs'."""

READINGS = {"examples": "", "positions": "gradient", "tokens": "output"}
"""bergson's ``token_influence`` by our names: none, the position reading, the loss-term reading."""


class Bergson:
    """A saved model and data, bergson's factors and its scores, all in one folder."""

    def __init__(self, model: Any, folder: Path, *, batch_tokens: int, empirical: bool = False) -> None:
        self._folder = folder
        self._batch_tokens = batch_tokens
        self._fisher = HessianConfig(method="kfac", ev_correction=True, use_dataset_labels=empirical)
        where = folder / "model"
        if not where.is_dir():
            model.save_pretrained(where)
            # bergson asks for a tokenizer even where it is given token ids.
            words = {f"t{number}": number for number in range(model.config.vocab_size)}
            blank = PreTrainedTokenizerFast(
                tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t0")), pad_token="t0"
            )
            blank.save_pretrained(where)

    def save(self, name: str, rows: Sequence[Encoded]) -> None:
        """Write examples as token ids, where steps find them by name."""
        if not (where := self._data(name)).is_dir():
            _dataset(rows).save_to_disk(where)

    def _data(self, name: str) -> Path:
        return self._folder / "data" / name

    def _index(self, run: str, data: str, **options: Any) -> IndexConfig:
        return IndexConfig(
            run_path=str(self._folder / run),
            model=str(self._folder / "model"),
            data=DataConfig(dataset=str(self._data(data))),
            filter_modules=NOT_MLP,
            token_batch_size=self._batch_tokens,
            distributed=DistributedConfig(nproc_per_node=1),
            **options,
        )

    def fit(self, train: str) -> None:
        """Fit EK-FAC factors on saved examples."""
        with _quiet():
            approximate_hessians(self._index("factors", train), self._fisher)

    def take(self, factors: Factors) -> None:
        """Put our factors where bergson keeps its own."""
        layers = factors.layers
        kept = {
            "eigen_activation_sharded": {name: layers[name].q_in for name in layers},
            "eigen_gradient_sharded": {name: layers[name].q_out for name in layers},
            "eigenvalue_correction_sharded": {name: layers[name].corrected for name in layers},
        }
        for where, tensors in kept.items():
            folder = self._folder / "factors" / where
            folder.mkdir(parents=True, exist_ok=True)
            # bergson names layers from the decoder on. Gate and up share a factor, which safetensors refuses.
            named = {name.removeprefix("model."): value.clone() for name, value in tensors.items()}
            save_file(named, folder / "shard_0.safetensors")

    def scores(self, train: str, targets: Sequence[str], *, reading: str = "") -> dict[str, list[np.ndarray]]:
        """Return scores of saved examples on saved targets, for each example [1] or [tokens - 1].

        A target's gradient is the mean over its examples; the damping is a tenth of the layer's mean
        eigenvalue, as ours is. All targets are scored in one pass. The last token has no score: nothing
        follows it.

        Parameters
        ----------
        reading
            Of :data:`READINGS`.
        """
        run = reading or "examples"
        with _quiet():
            query = self._queries(run, targets)
            how = ScoreConfig(query_path=str(query))
            if reading:
                how.token_influence = reading
            index = self._index(f"{run}-scores", train, attribute_tokens=bool(reading))
            score_dataset(index, how, PreprocessConfig())
        found = load_scores(self._folder / f"{run}-scores")
        values = np.asarray(found[:], dtype=np.float32).reshape(-1, len(targets))
        ends = found.offsets[1:-1] if reading else np.arange(1, len(values))
        return {name: np.split(values[:, column], ends) for column, name in enumerate(targets)}

    def _queries(self, run: str, targets: Sequence[str]) -> Path:
        """Return an index of all targets' preconditioned gradients, a row each."""
        rows = []
        for name in targets:
            gradient, inverse = (self._folder / f"{run}-{name}-{what}" for what in ("query", "inverse"))
            build(self._index(gradient.name, name), PreprocessConfig(aggregation="mean"))
            apply = EkfacConfig(
                hessian_method_path=str(self._folder / "factors"),
                gradient_path=str(gradient),
                run_path=str(inverse),
                ev_correction=True,
            )
            apply_worker(0, 0, 1, apply, InversionConfig(damping_factor=0.1))
            rows.append(load_gradients(inverse)[0])
        sizes = json.loads((inverse / "info.json").read_text(encoding="utf-8"))["grad_sizes"]
        both = self._folder / f"{run}-queries"
        stored = create_index(both, len(rows), sizes, np.float32)
        for number, row in enumerate(rows):
            stored[number] = row
        stored.flush()
        shutil.copy(inverse / "processor_config.yaml", both)
        return both


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a library says of its progress to itself: its loggers have levels of their own."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _dataset(rows: Sequence[Encoded]) -> Dataset:
    labels = [torch.where(row.loss_mask, row.input_ids, IGNORED).tolist() for row in rows]
    ids = [row.input_ids.tolist() for row in rows]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "length": [len(one) for one in ids]})
