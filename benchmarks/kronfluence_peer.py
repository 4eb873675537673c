"""The same attribution in kronfluence: its task for causal LMs, its calls, and our factors in its files.

kronfluence is the reference implementation of EK-FAC influence functions (Grosse et al. 2023). It
is used here as its own examples use it: the summed cross-entropy of a padded batch, labels drawn by
``torch.multinomial``, MLP linears alone, query gradients aggregated.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.factor.eigen import save_eigendecomposition, save_lambda_matrices
from kronfluence.task import Task
from kronfluence.utils.common.factor_arguments import smart_low_precision_factor_arguments
from kronfluence.utils.common.score_arguments import smart_low_precision_score_arguments
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from infra_lib.curvature import Factors
from infra_lib.models import Encoded, mlp_linears

IGNORED = -100


class LanguageModelling(Task):
    """Summed cross-entropy of the response's tokens."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)

    def compute_train_loss(self, batch: dict[str, Tensor], model: Any, sample: bool = False) -> Tensor:
        """Return the batch's loss under its own labels or labels drawn from the model."""
        logits = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits
        logits = logits[:, :-1].reshape(-1, logits.shape[-1])
        labels = batch["labels"][:, 1:].reshape(-1)
        if sample:
            with torch.no_grad():
                drawn = torch.multinomial(torch.softmax(logits.detach(), dim=-1), num_samples=1).flatten()
            labels = torch.where(labels == IGNORED, labels, drawn)
        return cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)

    def compute_measurement(self, batch: dict[str, Tensor], model: Any) -> Tensor:
        """Return the summed loss of a batch of correct responses."""
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        """Return the MLPs' linears."""
        return self._names

    def get_attention_mask(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the positions that carry a loss term: covariances rest on these, as ours do."""
        return batch["carries"]


class Rows(Dataset[dict[str, Tensor]]):
    """Examples padded to one length."""

    def __init__(self, encoded: Sequence[Encoded], pad_id: int = 0) -> None:
        width = max(len(row.input_ids) for row in encoded)
        self._rows = [_padded(row, width, pad_id) for row in encoded]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._rows[index]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self._rows)


def _padded(row: Encoded, width: int, pad_id: int) -> dict[str, Tensor]:
    length = len(row.input_ids)
    ids = torch.full((width,), pad_id)
    ids[:length] = row.input_ids
    mask = torch.zeros(width, dtype=torch.bool)
    mask[:length] = row.loss_mask
    attention = torch.zeros(width, dtype=torch.long)
    attention[:length] = 1
    carries = torch.zeros(width, dtype=torch.long)
    carries[:-1] = mask[1:].long()
    labels = torch.where(mask, ids, torch.full_like(ids, IGNORED))
    return {"input_ids": ids, "attention_mask": attention, "labels": labels, "carries": carries}


class Kronfluence:
    """A model wrapped by kronfluence, its factors and its scores.

    The model is changed in place by kronfluence's wrappers: give it one of its own.
    """

    def __init__(
        self,
        model: Any,
        folder: Path,
        *,
        batch: int,
        empirical: bool = False,
        device: str = "cpu",
        low_precision: bool = False,
    ) -> None:
        logging.getLogger("kronfluence").setLevel(logging.ERROR)
        task = LanguageModelling(list(mlp_linears(model)))
        self._analyzer = Analyzer(
            analysis_name="peer",
            model=prepare_model(model, task),
            task=task,
            cpu=device == "cpu",
            disable_tqdm=True,
            output_dir=str(folder),
        )
        self._batch = batch
        self._factor_args = FactorArguments(strategy="ekfac", use_empirical_fisher=empirical)
        self._score_args = ScoreArguments()
        if low_precision:  # kronfluence's own settings for bfloat16, with Λ and preconditioning in float32
            self._factor_args = smart_low_precision_factor_arguments()
            self._factor_args.use_empirical_fisher = empirical
            self._score_args = smart_low_precision_score_arguments()
        self._score_args.damping_factor = None
        self._score_args.aggregate_query_gradients = True

    def fit(self, train: Sequence[Encoded]) -> None:
        """Fit EK-FAC factors with kronfluence's defaults."""
        self._analyzer.fit_all_factors(
            factors_name="ekfac",
            dataset=Rows(train),
            per_device_batch_size=self._batch,
            factor_args=self._factor_args,
            overwrite_output_dir=True,
        )

    def take(self, factors: Factors) -> None:
        """Put our factors where kronfluence keeps its own."""
        folder = self._analyzer.factors_output_dir(factors_name="ekfac")
        folder.mkdir(parents=True, exist_ok=True)
        self._analyzer._save_arguments(
            arguments_name="factor", arguments=self._factor_args, output_dir=folder, overwrite_output_dir=True
        )
        layers = {name: factors.layers[name] for name in factors.layers}
        save_eigendecomposition(
            output_dir=folder,
            factors={
                "activation_eigenvectors": {n: part.q_in.clone() for n, part in layers.items()},
                "activation_eigenvalues": {n: part.s_in.clone() for n, part in layers.items()},
                "gradient_eigenvectors": {n: part.q_out.clone() for n, part in layers.items()},
                "gradient_eigenvalues": {n: part.s_out.clone() for n, part in layers.items()},
            },
        )
        # kronfluence stores sums and their count; ours are means.
        save_lambda_matrices(
            output_dir=folder,
            factors={
                "lambda_matrix": {n: part.corrected * factors.examples for n, part in layers.items()},
                "num_lambda_processed": {n: torch.tensor([factors.examples]) for n in layers},
            },
        )

    def factors(self) -> dict[str, dict[str, Tensor]]:
        """Return kronfluence's Λ, summed, and the number of examples, by layer."""
        return self._analyzer.load_lambda_matrices(factors_name="ekfac")

    def scores(
        self, train: Sequence[Encoded], target: Sequence[Encoded], *, per_token: bool, name: str
    ) -> np.ndarray:
        """Return scores of examples [examples], or of positions [examples, tokens], on a target.

        The damping is kronfluence's heuristic, a tenth of the layer's mean eigenvalue, which is ours too.
        """
        self._analyzer.compute_pairwise_scores(
            scores_name=name,
            factors_name="ekfac",
            query_dataset=Rows(target),
            train_dataset=Rows(train),
            per_device_query_batch_size=self._batch,
            per_device_train_batch_size=self._batch,
            score_args=replace(self._score_args, compute_per_token_scores=per_token),
            overwrite_output_dir=True,
        )
        found = self._analyzer.load_pairwise_scores(scores_name=name)["all_modules"]
        return found[0].float().numpy() / len(target)
