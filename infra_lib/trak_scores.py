r"""TRAK scores of language models, through the reference implementation ``trak``.

TRAK (Park et al. 2023, arXiv 2303.14186) linearises the model output

    f(z) = Σ_t log( p_t / (1 − p_t) ),

p_t the probability of response token t, projects each example's gradient of f to a few
dimensions, and scores with a ridge regression in that space, averaged over checkpoints.
This module supplies what ``trak`` leaves to its user: the model output, a gradient
computer that touches the chosen layers only, and a projector for the device. It guards
against the silent failures that users report: a singular XᵀX (the ridge is always on),
projections that are all zero, and scores in which examples do not find themselves.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trak import TRAKer
from trak.gradient_computers import AbstractGradientComputer
from trak.modelout_functions import AbstractModelOutput
from trak.projectors import BasicProjector, CudaProjector, ProjectionType

from infra_lib.distributed import Shard, is_main, shard, size
from infra_lib.errors import NumericalError, ParameterError
from infra_lib.example_gradients import example_gradients
from infra_lib.models import Batch, Encoded, batches, linears
from infra_lib.responses import response_logits, spread_out


@dataclass(frozen=True)
class TrakScores:
    """Scores with their guard.

    Attributes
    ----------
    scores
        Target name to scores [examples]; higher is more helpful.
    self_rank
        Part of a sample of training examples that, as targets, rank themselves first.
    """

    scores: dict[str, np.ndarray]
    self_rank: float


def log_odds(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return log p/(1−p) and 1 − p of each response token [batch, tokens], 0 elsewhere.

    The log odds are the token's logit less the log-sum-exp of all others', which is exact however sure the
    model is; by way of p, they and their gradient would be lost where p is 1 in rounding.
    """
    logits, labels = response_logits(model, batch), batch.labels.unsqueeze(-1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    odds = logits.gather(-1, labels).squeeze(-1) - logits.scatter(-1, labels, -torch.inf).logsumexp(-1)
    return spread_out(batch, odds), spread_out(batch, torch.sigmoid(-odds))


class _Output(AbstractModelOutput):
    """Model output f and the derivative of the loss by it, in the form that trak asks for."""

    def __init__(self) -> None:
        pass

    @staticmethod
    def get_output(model: Any, batch: Batch) -> Tensor:
        """Return f summed over the response, shape [batch]."""
        return log_odds(model, batch)[0].sum(1)

    def get_out_to_loss_grad(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean of 1 − p over the response, shape [batch, 1]."""
        with torch.no_grad():
            rest = log_odds(model, batch)[1].sum(1, keepdim=True)
        return rest / batch.loss_mask.sum(1, keepdim=True)


class _Gradients(AbstractGradientComputer):
    """Per-example gradients of f by the chosen layers alone, from one backward pass per batch."""

    def __init__(self, model: Any, task: AbstractModelOutput, grad_dim: int, **options: Any) -> None:
        super().__init__(model, task, grad_dim, options["dtype"], options["device"])
        modules = dict(model.named_modules())
        self.layers = {
            name.removesuffix(".weight"): modules[name.removesuffix(".weight")]
            for name in options["grad_wrt"]
        }

    def load_model_params(self, model: Any) -> None:
        """Nothing to do: gradients are taken from the model itself."""

    def compute_per_sample_grad(self, batch: Batch) -> Tensor:
        """Return gradients [batch, parameters]."""
        found = dict(example_gradients(self.model, self.layers, batch, self.modelout_fn.get_output))
        return torch.cat([found[name].flatten(1) for name in self.layers], dim=1)

    def compute_loss_grad(self, batch: Batch) -> Tensor:
        """Return the derivative of the loss by f [batch, 1]."""
        return self.modelout_fn.get_out_to_loss_grad(self.model, batch)


def batch_dependence(
    model: Any,
    encoded: Sequence[Encoded],
    *,
    pattern: str | None = None,
    pad_id: int = 0,
    batch_tokens: int = 4096,
) -> float:
    """Return how far examples' gradients of f in batches lie from those of the examples alone.

    The largest difference of an entry, relative to the largest entry; rounding where all is well. No more is
    held than a batch of the scoring itself holds, and two examples.

    Raises
    ------
    NumericalError
        For gradients that are all zero or not finite.
    """
    names = [f"{name}.weight" for name in linears(model, pattern)]
    computer = _Gradients(model, _Output(), 0, dtype=torch.float32, device=model.device, grad_wrt=names)
    largest = apart = 0.0
    for batch in batches(encoded, batch_tokens=batch_tokens, pad_id=pad_id):
        together = computer.compute_per_sample_grad(batch.to(model.device))
        for place, row in enumerate(batch.rows):
            one = batches([encoded[row]], batch_tokens=1, pad_id=pad_id)[0]
            alone = computer.compute_per_sample_grad(one.to(model.device))[0]
            # Python's max would lose what is no number.
            largest = float(np.maximum(largest, float(alone.abs().max())))
            apart = float(np.maximum(apart, float(alone.sub_(together[place]).abs_().max())))
    if not (largest > 0 and np.isfinite([largest, apart]).all()):
        raise NumericalError("TRAK's gradients are zero or not finite; scores would mean nothing")
    return apart / largest


def trak_scores(
    model: Any,
    train: Sequence[Encoded],
    targets: Mapping[str, Sequence[Encoded]],
    *,
    checkpoints: Sequence[Mapping[str, Tensor]] | None = None,
    proj_dim: int = 512,
    ridge: float = 0.1,
    pattern: str | None = None,
    pad_id: int = 0,
    batch_tokens: int = 4096,
    seed: int = 0,
    folder: Path | None = None,
) -> TrakScores:
    """Score training examples on each target with TRAK.

    Parameters
    ----------
    checkpoints
        State dictionaries of an ensemble; None uses the model as it is.
    proj_dim
        Dimensions of the projection.
    ridge
        Ridge as a multiple of the mean diagonal of XᵀX; always above 0, since XᵀX is singular when
        there are fewer examples than dimensions.
    folder
        Where trak keeps its features; a temporary folder by default.

    Raises
    ------
    ParameterError
        For a dimension or ridge that cannot be.
    NumericalError
        For projections that are all zero or not finite, or scores that are.
    """
    return trak_sweep(
        model,
        train,
        targets,
        [ridge],
        checkpoints=checkpoints,
        proj_dim=proj_dim,
        pattern=pattern,
        pad_id=pad_id,
        batch_tokens=batch_tokens,
        seed=seed,
        folder=folder,
    )[ridge]


def trak_sweep(
    model: Any,
    train: Sequence[Encoded],
    targets: Mapping[str, Sequence[Encoded]],
    ridges: Sequence[float],
    *,
    checkpoints: Sequence[Mapping[str, Tensor]] | None = None,
    proj_dim: int = 512,
    pattern: str | None = None,
    pad_id: int = 0,
    batch_tokens: int = 4096,
    seed: int = 0,
    folder: Path | None = None,
) -> dict[float, TrakScores]:
    """Score training examples with several ridges; gradients are computed and projected once.

    See :func:`trak_scores`, which this is for one ridge.
    """
    if proj_dim < 2:
        raise ParameterError("proj_dim", proj_dim, "2 or more")
    for ridge in ridges:
        if not (ridge > 0 and np.isfinite(ridge)):
            raise ParameterError("ridge", ridge, "a finite number above 0")
    if not ridges:
        raise ParameterError("ridges", [], "at least one number")
    with tempfile.TemporaryDirectory(prefix="infra-trak-") as temporary:
        runner = _Runner(model, pattern, len(train), proj_dim, seed, folder or Path(temporary))
        states = list(checkpoints) if checkpoints is not None else [model.state_dict()]
        mine = shard(train, at_least_one=True)
        groups = batches(mine.take(train), batch_tokens=batch_tokens, pad_id=pad_id)
        sample = list(range(0, len(train), max(1, len(train) // 16)))
        questions = {**targets, "": [train[i] for i in sample]}
        rows = [row for part in questions.values() for row in part]
        runner.featurize(states, groups, mine, ridges[0])
        asked = shard(rows)
        groups = batches(asked.take(rows), batch_tokens=batch_tokens, pad_id=pad_id)
        tables = {ridges[0]: runner.score(states, groups, asked)}
        for ridge in ridges[1:]:
            tables[ridge] = runner.with_ridge(len(states), ridge)
    return {ridge: _by_target(table, questions, sample) for ridge, table in tables.items()}


def _by_target(
    table: np.ndarray, questions: Mapping[str, Sequence[Encoded]], sample: list[int]
) -> TrakScores:
    """Cut scores [training examples, target examples] into targets, the sample of training examples last."""
    found, start = {}, 0
    for name, part in questions.items():
        found[name] = table[:, start : start + len(part)]
        start += len(part)
    own = found.pop("")
    self_rank = float(np.mean(own.argmax(axis=0) == np.array(sample)))
    return TrakScores({name: part.mean(axis=1) for name, part in found.items()}, self_rank)


def _one_bar() -> AbstractContextManager[object]:
    """Keep what trak writes to standard error, progress alone, to the first of several processes."""
    return nullcontext() if is_main() else redirect_stderr(io.StringIO())


def has_kernels(device: str, proj_dim: int) -> bool:
    """Return whether trak's own CUDA kernels project: on a GPU, where ``fast_jl`` is, by multiples of 512.

    Elsewhere PyTorch does, which draws the matrix again for each batch. The two draw other matrices, so
    scores agree as those of two seeds do.
    """
    return device == "cuda" and proj_dim % 512 == 0 and find_spec("fast_jl") is not None


def _blocks(proj_dim: int) -> dict[str, int]:
    # Fewer columns than dimensions: with one block alone the matrix is lost when trak frees memory.
    return {"block_size": max(1, min(128, proj_dim // 2)), "model_id": -1}


class _Runner:
    """A TRAKer with the steps that this module needs, quiet and checked."""

    def __init__(
        self, model: Any, pattern: str | None, size: int, proj_dim: int, seed: int, folder: Path
    ) -> None:
        names = [f"{name}.weight" for name in linears(model, pattern)]
        parameters = dict(model.named_parameters())
        grad_dim = sum(parameters[name].numel() for name in names)
        device = model.device.type
        kernels = has_kernels(device, proj_dim)
        projector = (CudaProjector if kernels else BasicProjector)(
            grad_dim=grad_dim,
            proj_dim=proj_dim,
            seed=seed,
            proj_type=ProjectionType.rademacher if device == "cuda" else ProjectionType.normal,
            device=model.device,
            **({"max_batch_size": 32} if kernels else _blocks(proj_dim)),
        )
        self.traker = TRAKer(
            model=model,
            task=_Output(),
            train_set_size=size,
            save_dir=str(folder),
            device=device,
            gradient_computer=_Gradients,
            projector=projector,
            proj_dim=proj_dim,
            logging_level=logging.ERROR,
            use_half_precision=False,
            grad_wrt=names,
        )

    def featurize(
        self, states: Sequence[Mapping[str, Tensor]], groups: Sequence[Batch], part: Shard, ridge: float
    ) -> None:
        """Compute this shard's features of every checkpoint, put all shards together, and check them."""
        traker = self.traker
        for number, state in enumerate(states):
            traker.load_checkpoint(state, model_id=number)
            for batch in groups:
                traker.featurize(
                    batch.to(traker.model.device), inds=np.array([part.rows[i] for i in batch.rows])
                )
            self._gather(part, "grads", "out_to_loss")
            features = np.asarray(traker.saver.current_store["grads"])
            if not np.isfinite(features).all() or not features.any(axis=1).all():
                raise NumericalError(
                    "TRAK's projected gradients are zero or not finite; scores would mean nothing"
                )
            self._finalize(number, features, ridge)

    def _finalize(self, number: int, features: np.ndarray, ridge: float) -> None:
        """Apply (XᵀX + ridge)⁻¹ to a checkpoint's features."""
        self.traker.score_computer.lambda_reg = ridge * float(np.square(features).sum(0).mean())
        with _one_bar():
            self.traker.finalize_features(model_ids=[number])

    def with_ridge(self, models: int, ridge: float) -> np.ndarray:
        """Return the scores with another ridge, from the gradients that are there."""
        saver = self.traker.saver
        # No more is projected; trak would free the projection's matrix again each time, and fail.
        self.traker.projector.free_memory = lambda: None
        for number in range(models):
            saver.load_current_store(number)
            saver.model_ids[number]["is_finalized"] = 0  # trak would skip it otherwise
            self._finalize(number, np.asarray(saver.current_store["grads"]), ridge)
        return self._table(models)

    def _gather(self, part: Shard, *names: str) -> None:
        """Put what other processes computed into this one's store."""
        if size() == 1:
            return
        store = self.traker.saver.current_store
        for name in names:
            store[name][:] = part.gather_rows(np.asarray(store[name])[list(part.rows)])
        store["is_featurized"][:] = 1
        self.traker.saver.serialize_current_model_id_metadata()

    def score(
        self, states: Sequence[Mapping[str, Tensor]], groups: Sequence[Batch], part: Shard
    ) -> np.ndarray:
        """Return scores [training examples, target examples]."""
        traker = self.traker
        for number, state in enumerate(states):
            traker.start_scoring_checkpoint("targets", state, model_id=number, num_targets=part.total)
            for batch in groups:
                where = np.array([part.rows[i] for i in batch.rows])
                traker.score(batch.to(traker.model.device), inds=where)
            self._gather(part, "targets_grads")
        return self._table(len(states))

    def _table(self, models: int) -> np.ndarray:
        """Return scores [training examples, target examples], the mean over checkpoints."""
        with _one_bar():
            table = np.array(self.traker.finalize_scores("targets", model_ids=list(range(models))))
        if not np.isfinite(table).all() or not table.any():
            raise NumericalError("TRAK scores are all zero or not finite")
        return table
