"""What fine-tuning depends on, and the checks that come before anything is loaded."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra_lib.errors import ParameterError
from infra_lib.examples import Example

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
"""Arithmetic of the forward and backward pass; weights and Adam's moments stay in float32. ``tf32`` is
float32 but for matrix products of a GPU, whose factors are rounded to 11 significant bits."""

MIXED = ("bfloat16", "float16")
"""Those in which activations are smaller than the weights."""

ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flex_attention")
"""Attention implementations of transformers that training can use."""

SCHEDULES = ("linear", "cosine", "constant")
"""Learning rates after the warm-up: to zero in a line or a half cosine, or unchanged."""


@dataclass(frozen=True)
class FinetuneConfig:
    """What fine-tuning depends on besides data, base and seed.

    Attributes
    ----------
    epochs
        Passes over the training examples.
    batch_size
        Examples per optimiser step, over all processes and micro-batches.
    learning_rate, weight_decay
        Of AdamW; the rate warms up linearly and then follows ``schedule``.
    warmup_fraction
        Part of all steps spent warming up, 0 to 1.
    max_grad_norm
        Gradient norm above which gradients are scaled down.
    end_token
        Whether the response ends with the tokenizer's end token, which the model learns too.
    max_tokens
        Longest sequence in tokens; None keeps all. Longer responses are cut.
    chat_template
        Whether the prompt becomes a user turn of the tokenizer's chat template; None: where it has one.
    schedule
        One of :data:`SCHEDULES`.
    precision
        One of :data:`PRECISIONS`. Those of :data:`MIXED` are mixed precision.
    attention
        One of :data:`ATTENTIONS`.
    gradient_accumulation
        Micro-batches per step and process; None takes a quarter of a batch at once where that is
        whole. It changes memory and speed and not the gradient.
    packing
        Concatenate the examples of a micro-batch to one row without padding. No example sees
        another, so it changes memory and speed and not the gradient.
    gradient_checkpointing
        Compute activations again in the backward pass in place of keeping them.
    fsdp
        Shard parameters, gradients and Adam's moments over the processes (FSDP2).
    checkpoint_steps
        Steps between checkpoints; None writes one an epoch.
    lora_rank
        Rank of low-rank adapters; 0 trains every weight.
    lora_alpha
        Adapters are scaled by ``lora_alpha / lora_rank``; None is twice the rank.
    lora_dropout
        Dropout before an adapter, 0 to 1.
    lora_targets
        Names of the linear layers that get an adapter (``q_proj``), or ``all-linear`` alone.
    """

    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_fraction: float = 0.05
    max_grad_norm: float = 1.0
    end_token: bool = True
    max_tokens: int | None = None
    chat_template: bool | None = None
    schedule: str = "linear"
    precision: str = "float32"
    attention: str = "sdpa"
    gradient_accumulation: int | None = None
    packing: bool = False
    gradient_checkpointing: bool = False
    fsdp: bool = False
    checkpoint_steps: int | None = None
    lora_rank: int = 0
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = ("all-linear",)

    def accumulation(self, processes: int = 1) -> int:
        """Return the micro-batches per step and process."""
        if self.gradient_accumulation is not None:
            return self.gradient_accumulation
        return max(1, 4 // processes) if self.batch_size % 4 == 0 else 1

    def check(self, *, device: str = "cpu", processes: int = 1, launched: bool | None = None) -> None:
        """Raise for the first setting that cannot be, on this device and with so many processes.

        Parameters
        ----------
        launched
            Whether the processes are torchrun's or accelerate's; None asks the environment.

        Raises
        ------
        ParameterError
            Naming the setting, its value and the valid choices.
        """
        for name, value, choices in (
            ("precision", self.precision, PRECISIONS),
            ("attention", self.attention, ATTENTIONS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if value not in choices:
                raise ParameterError(name, value, f"one of {', '.join(choices)}")
        for name in ("epochs", "batch_size", "gradient_accumulation", "max_tokens", "checkpoint_steps"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ParameterError(name, number, "1 or more")
        for name in ("learning_rate", "max_grad_norm"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ParameterError(name, getattr(self, name), "a finite number above 0")
        for name, top in (("warmup_fraction", 1.0), ("lora_dropout", 1.0), ("weight_decay", math.inf)):
            if not 0 <= getattr(self, name) <= top:
                raise ParameterError(name, getattr(self, name), f"from 0 to {top:g}")
        self._check_lora()
        self._check_machine(device, processes, "RANK" in os.environ if launched is None else launched)

    def _check_lora(self) -> None:
        if self.lora_rank < 0:
            raise ParameterError("lora_rank", self.lora_rank, "0 (train every weight) or more")
        if self.lora_alpha is not None and not self.lora_alpha > 0:
            raise ParameterError("lora_alpha", self.lora_alpha, "a number above 0")
        if not self.lora_targets or ("all-linear" in self.lora_targets and len(self.lora_targets) > 1):
            raise ParameterError("lora_targets", self.lora_targets, "names of layers, or all-linear alone")

    def _check_machine(self, device: str, processes: int, launched: bool) -> None:
        cuda = device.startswith("cuda")
        _check_device(device)
        if self.precision in ("float16", "tf32") and not cuda:
            raise ParameterError("precision", self.precision, "float32 or bfloat16 on a CPU")
        if self.attention == "flash_attention_2" and not (cuda and self.precision in MIXED):
            valid = "sdpa, or used on a CUDA device in bfloat16 or float16"
            raise ParameterError("attention", self.attention, valid)
        if self.precision == "bfloat16" and cuda:
            import torch

            if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
                raise ParameterError("precision", self.precision, "float32 or float16 on this CUDA device")
        if self.fsdp and not cuda:
            raise ParameterError("fsdp", True, "false on a CPU, where accelerate does not shard")
        if self.fsdp and not launched:
            valid = "false, or started by torchrun or accelerate launch, which make processes to shard over"
            raise ParameterError("fsdp", True, valid)
        parts = processes * self.accumulation(processes)
        if self.batch_size < parts:
            valid = f"at least {parts}, one example per process ({processes}) and accumulated micro-batch"
            raise ParameterError("batch_size", self.batch_size, valid)


def _check_device(device: str) -> None:
    """Raise for a device that is not there or that the Trainer would not take."""
    if device not in ("cpu", "cuda", "cuda:0"):
        raise ParameterError("device", device, "cpu or cuda (choose a device with CUDA_VISIBLE_DEVICES)")
    if device != "cpu":
        from infra_lib.device import check_device

        check_device(device)


def check_weights(weights: Sequence[float] | None, examples: Sequence[Example]) -> list[float]:
    """Return one finite, positive weight per example, scaled to mean one.

    Raises
    ------
    ParameterError
        Naming the example whose weight is zero, negative, NaN or infinite, or the count that is off.
    """
    if not examples:
        raise ParameterError("examples", [], "at least one training example")
    if weights is None:
        return [1.0] * len(examples)
    if len(weights) != len(examples):
        raise ParameterError("weights", f"{len(weights)} weights", f"one per example ({len(examples)})")
    for example, weight in zip(examples, weights, strict=True):
        if not (isinstance(weight, int | float) and math.isfinite(weight) and weight > 0):
            raise ParameterError(
                f"weights[{example.id}]",
                weight,
                "a finite number above 0 (leave an example out of the list instead of weighting it 0)",
            )
    mean = math.fsum(weights) / len(weights)
    return [weight / mean for weight in weights]


def weights_dtype(precision: str) -> torch.dtype:
    """Return the type in which a model trained at a precision answers and is attributed on a GPU."""
    import torch

    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)


def process_count() -> int:
    """Return the number of processes that ``torchrun`` or ``accelerate launch`` started; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))
