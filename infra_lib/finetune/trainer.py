"""The Trainer of transformers with a weighted loss, and its settings.

Where the loss is divided, and why here: the Trainer counts the loss-carrying tokens of all
micro-batches of a step and, over processes, adds the counts up (``num_items_in_batch``),
but (1) only for models whose ``forward`` takes ``**kwargs``; for others it hands over None
and a mean of unequal means comes out; (2) what is divided by the global count is then
*averaged* over processes by DDP and FSDP, which loses a factor of the number of processes.
:class:`WeightedTrainer` asks for the count always, and multiplies the factor back.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from transformers.utils import logging as hf_logging

from infra_lib.device import tf32_products
from infra_lib.errors import NumericalError
from infra_lib.finetune.batches import IGNORED, MicroBatches
from infra_lib.finetune.checkpoints import WholeCheckpoints, last_whole_checkpoint

CHUNK_ELEMENTS = 2**27
"""Logits (tokens × vocabulary) per piece of the loss: half a gibibyte in float32."""


class WeightedTrainer(Trainer):
    """Trainer whose loss multiplies each example's summed token loss by its weight.

    Parameters
    ----------
    micro_batches
        Order in which examples are taken; the Trainer's own batch size is 1, of these.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, micro_batches: MicroBatches, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.micro_batches = micro_batches
        # Only what is counted depends on it here: compute_loss hands the model no such argument.
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the order in which examples are taken."""
        return self.micro_batches

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return this micro-batch's part of the step's loss, times the number of processes: a scalar."""
        weights, labels = inputs.pop("weights"), inputs.pop("labels")
        outputs = model(**inputs, use_cache=False)
        total = weighted_loss(outputs.logits, labels, weights)
        count = num_items_in_batch if num_items_in_batch is not None else (labels[:, 1:] != IGNORED).sum()
        loss = total * self.accelerator.num_processes / count
        return (loss, outputs) if return_outputs else loss


class FiniteLoss(TrainerCallback):
    """Ends a training whose loss is no number, when it is logged."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raise a NumericalError that says at which step."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise NumericalError(
                f"the training loss is {loss} at step {state.global_step}; a lower learning_rate, or more "
                "warmup, may keep it finite"
            )


def weighted_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return Σ w · −log p over the labelled tokens, in nats, a scalar.

    Parameters
    ----------
    logits, labels, weights
        [rows, tokens, vocabulary] and twice [rows, tokens]; token t is predicted by the logits of t − 1.

    Notes
    -----
    The log-softmax is taken in float32. Beyond :data:`CHUNK_ELEMENTS` it is taken piece by piece and
    again in the backward pass, so that no float32 copy of all logits is ever held.
    """
    flat, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    factors = weights[:, 1:].flatten()
    size = max(1, CHUNK_ELEMENTS // flat.shape[-1])
    if len(flat) <= size:
        return _weighted_sum(flat, targets, factors)
    pieces = zip(flat.split(size), targets.split(size), factors.split(size), strict=True)
    return torch.stack([checkpoint(_weighted_sum, *piece, use_reentrant=False) for piece in pieces]).sum()


def _weighted_sum(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    losses = torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
    return (losses * weights).sum()


def trainer_arguments(
    work: Path,
    *,
    seed: int,
    steps: int,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    warmup_steps: int,
    progress: bool,
    device: str = "cpu",
    **others: Any,
) -> TrainingArguments:
    """Return what this project's trainings have in common, pretraining and fine-tuning alike.

    Parameters
    ----------
    work
        Folder of checkpoints, from which an interrupted training continues.
    steps
        Optimiser steps in all; the loss is logged fifty times.
    """
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        seed=seed,
        data_seed=seed,
        use_cpu=device == "cpu",
        logging_steps=max(1, steps // 50),
        report_to="none",
        disable_tqdm=not progress,
        dataloader_pin_memory=device != "cpu",
        # It would ask the device after every step whether the loss is a number, and hide where it is none.
        # In float16 single losses may overflow and do no harm.
        logging_nan_inf_filter=bool(others.get("fp16")),
        remove_unused_columns=False,
        **{"lr_scheduler_type": "linear", "ddp_find_unused_parameters": False, **others},
    )


def train_quietly(trainer: Trainer, work: Path, *, precision: str = "float32") -> Any:
    """Train, from the last whole checkpoint in ``work`` if there is one, without printing logs.

    Parameters
    ----------
    precision
        As the arguments were made for (:data:`~infra_lib.finetune.config.PRECISIONS`).

    Raises
    ------
    NumericalError
        Where the loss became no number on the way.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(WholeCheckpoints())
    trainer.add_callback(FiniteLoss())
    start = last_whole_checkpoint(work)
    with tf32_products(precision == "tf32"):
        return trainer.train(resume_from_checkpoint=str(start) if start else None)
