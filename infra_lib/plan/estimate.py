"""From a model's configuration, a workload and a machine to memory, hours and disk of every step.

Activations and operations are traced (see :mod:`.trace`) for one batch of the library's own
code; what is kept beside them is counted:

===================  ===========================================================================
step                 bytes on one device
===================  ===========================================================================
fine-tuning          weights, gradients and two Adam moments (sharded over devices), activations
generation           weights, key-value cache of the answers written side by side
factors, a part      weights, factors under construction of the part's layers, activations
scores               weights, one direction per target, activations with one tangent per target
===================  ===========================================================================

Allocators keep more than tensors hold; :data:`ALLOCATOR` stands for that, measured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from infra_lib.curvature import captured, weight_shape
from infra_lib.curvature.fit import partitions
from infra_lib.errors import ParameterError
from infra_lib.finetune import _micro_batch
from infra_lib.models import linears, select_log_probs, token_log_probs
from infra_lib.plan.hardware import Machine
from infra_lib.plan.trace import Trace, meta_batch, meta_model, trace
from infra_lib.plan.workload import Workload

ALLOCATOR = 1.1
"""Resident memory over bytes in tensors, as measured on models of 10 to 130 million parameters."""

EIGEN_OPERATIONS, EIGEN_UTILISATION = 9.0, 0.1
"""Operations of an eigendecomposition of size n, in n³, and how much of a matrix product's speed it reaches."""


@dataclass(frozen=True)
class Choices:
    """How the work is cut: what a plan may change so that it fits.

    Attributes
    ----------
    batch_tokens
        Padded tokens per batch of attribution.
    targets_at_once
        Targets that one scoring pass serves.
    factor_bytes
        Budget of the factors under construction; None takes what the device has left.
    micro_batch
        Examples that go through the model at once in fine-tuning; 0 takes the study's.
    checkpointing
        Whether fine-tuning recomputes activations instead of keeping them.
    lora_rank
        Rank of the adapters that are trained; 0 trains all weights.
    dtype
        Of weights and activations.
    """

    batch_tokens: int = 4096
    targets_at_once: int = 2
    factor_bytes: int | None = None
    micro_batch: int = 0
    checkpointing: bool = False
    lora_rank: int = 0
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Step:
    """One step of a plan: where it belongs, and what it takes.

    ``peak_bytes`` is per device, ``seconds`` with all devices at work.
    """

    notebook: str
    what: str
    peak_bytes: int
    seconds: float
    disk_bytes: int = 0
    note: str = ""


@dataclass(frozen=True)
class Size:
    """What a configuration amounts to.

    Attributes
    ----------
    parameters, attributed
        All weights, and those of the layers that attribution covers.
    layers
        Number of those layers.
    covariance_bytes, factor_bytes
        Covariances of all layers under construction; factors as they are stored.
    """

    parameters: int
    attributed: int
    layers: int
    covariance_bytes: int
    factor_bytes: int


class Planner:
    """Estimates for one model, workload and machine."""

    def __init__(
        self, config: Any, work: Workload, machine: Machine, choices: Choices | None = None
    ) -> None:
        self.choices = choices or Choices()
        self.work, self.machine = work, machine
        self.model = meta_model(config, self.choices.dtype)
        self.layers: Mapping[str, nn.Module] = linears(self.model, None)
        self._traces: dict[Any, Trace] = {}
        self._width = torch.finfo(self.choices.dtype).bits // 8

    def with_choices(self, choices: Choices) -> Planner:
        """Return this plan with other choices; what was traced already is kept."""
        other = copy.copy(self)
        other.choices = choices
        return other

    # --- sizes -------------------------------------------------------------------------

    def size(self) -> Size:
        """Return parameter counts and the bytes of all factors."""
        shapes = [weight_shape(module) for module in self.layers.values()]
        inputs = self._input_sizes()
        sides = [*inputs, *(out for out, _ in shapes)]
        areas = sum(out * into for out, into in shapes)
        return Size(
            parameters=sum(p.numel() for p in self.model.parameters()),
            attributed=areas,
            layers=len(shapes),
            covariance_bytes=4 * sum(side * side for side in sides),
            factor_bytes=4 * (sum(side * side + side for side in sides) + 2 * areas),
        )

    def _input_sizes(self) -> list[int]:
        """Return the sizes of the distinct inputs: layers that are given the same tensor share one."""
        with torch.no_grad(), captured(self.model, self.layers) as seen, torch.enable_grad():
            token_log_probs(self.model, meta_batch(1, 8)).sum().backward()
        distinct = {id(acts.untyped_storage()): acts.shape[-1] for acts, _ in seen.values()}
        return list(distinct.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(p.numel() for p in self.model.parameters()) * self._width

    # --- traced passes -----------------------------------------------------------------

    def _trace(self, key: Any, step: Callable[[], Any]) -> Trace:
        if key not in self._traces:
            self._traces[key] = trace(step)
        return self._traces[key]

    def _rows(self, batch_tokens: int) -> tuple[int, int]:
        """Return rows and tokens of the largest batch: the longest sequences side by side."""
        width = self.work.longest
        return max(1, batch_tokens // width), width

    def forward_backward(self, rows: int, width: int) -> Trace:
        """Trace a forward and backward pass that captures every attributed layer."""

        def step() -> Any:
            with captured(self.model, self.layers) as seen:
                token_log_probs(self.model, meta_batch(rows, width)).sum().backward()
            return seen

        return self._trace(("backward", rows, width), step)

    def scoring(self, rows: int, width: int, targets: int) -> Trace:
        """Trace a forward-mode pass for several targets."""
        weights = {f"{name}.weight": module.weight.detach() for name, module in self.layers.items()}
        tangents = {name: torch.stack([weight] * targets) for name, weight in weights.items()}
        batch = meta_batch(rows, width)

        def log_probs(values: dict[str, torch.Tensor]) -> torch.Tensor:
            output = torch.func.functional_call(self.model, values, (), {**batch.inputs, "use_cache": False})
            return select_log_probs(output.logits, batch)

        def step() -> Any:
            with torch.no_grad():
                return torch.func.vmap(lambda v: torch.func.jvp(log_probs, (weights,), (v,))[1])(tangents)

        return self._trace(("scores", rows, width, targets), step)

    def training(self, rows: int, width: int) -> Trace:
        """Return a forward and backward pass of fine-tuning, attention never held as a whole.

        Bytes and operations under eager attention are a·T + b·T² in the sequence length T. Two short
        traces give both; fused attention has the operations and not the T² bytes.
        """
        short, double = (self._training_eager(tokens) for tokens in (256, 512))
        line = 2 * short.peak_bytes - double.peak_bytes / 2
        fixed = self.weight_bytes  # gradients, there whatever the length
        per_token = (line - fixed * 1.5) / 256
        linear = (2 * short.flops - double.flops / 2) / 256
        square = (double.flops - 2 * short.flops) / (512 * 256)
        return Trace(
            peak_bytes=int(rows * width * per_token),
            kept_bytes=fixed,
            flops=int(rows * width * (linear + square * width)),
        )

    def _training_eager(self, tokens: int) -> Trace:
        def step() -> None:
            token_log_probs(self.model, meta_batch(1, tokens)).sum().backward()

        for parameter in self.model.parameters():
            parameter.grad = None
        return self._trace(("training", tokens), step)

    # --- steps -------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        """Return every step of the study's notebooks, in order."""
        work = self.work
        train = self.finetune_step(work.uniform_runs, "03_finetune_evaluate")
        arms = self.finetune_step(work.arm_runs, "05_reweighting_arms")
        exam = work.test * work.samples
        return [
            train,
            self.generate_step(
                exam * work.uniform_runs + work.target * work.models, "03_finetune_evaluate"
            ),
            self.fit_step(),
            self.score_step(),
            arms,
            self.generate_step(exam * work.arm_runs, "05_reweighting_arms"),
        ]

    def finetune_step(self, runs: int, notebook: str) -> Step:
        """Return fine-tuning: all weights (or adapters), AdamW, shards over devices."""
        rows = self.choices.micro_batch or _micro_batch(self.work.batch_size)
        found = self.training(rows, self.work.longest)
        parameters = self.weight_bytes // self._width
        trained = self._trained()
        # Adam's two moments and, in half precision, a master copy are kept in float32.
        state = trained * (8 if self._width == 4 else 12) + trained * self._width
        activations = found.peak_bytes
        flops = found.flops / (rows * self.work.longest) * self.work.train_tokens * self.work.epochs * runs
        note = f"{runs} runs"
        if self.choices.checkpointing:
            # One block's activations are alive at a time, and every block's input.
            blocks = self.model.config.num_hidden_layers
            inputs = rows * self.work.longest * self.model.config.hidden_size * self._width * blocks
            activations = activations // blocks + inputs
            flops *= 4 / 3
            note += ", gradient checkpointing"
        if self.choices.lora_rank:
            note += f", LoRA of rank {self.choices.lora_rank}"
        shared = (parameters * self._width + state) // self.machine.devices
        return Step(
            notebook,
            "fine-tune",
            self._resident(shared + activations),
            self.machine.seconds(flops, self.choices.dtype),
            disk_bytes=runs * self.weight_bytes,
            note=note,
        )

    def _trained(self) -> int:
        """Return how many weights fine-tuning changes."""
        if not self.choices.lora_rank:
            return self.weight_bytes // self._width
        return sum(self.choices.lora_rank * sum(weight_shape(module)) for module in self.layers.values())

    def generate_step(self, answers: int, notebook: str) -> Step:
        """Return generation: a step of decoding reads the weights once and each answer's cache."""
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        per_token = 2 * config.num_hidden_layers * heads * size * self._width
        length = self.work.prompt_tokens + self.work.answer_tokens
        room = self.machine.memory_bytes * 0.9 - self.weight_bytes
        side_by_side = int(min(64, max(1, room // (per_token * length + 4 * config.vocab_size))))
        cache = side_by_side * (per_token * length + 4 * config.vocab_size)
        decoding = answers * self.work.answer_tokens / side_by_side / self.machine.devices
        flops = 2 * self.weight_bytes / self._width * answers * length
        seconds = max(
            decoding * (self.weight_bytes + cache) / self.machine.bandwidth,
            self.machine.seconds(flops, self.choices.dtype),
        )
        note = f"{answers:,} answers, {side_by_side} side by side"
        return Step(notebook, "generate", self._resident(self.weight_bytes + cache), seconds, note=note)

    def fit_step(self) -> Step:
        """Return the fit of the factors: every part passes twice over the training set."""
        rows, width = self._rows(self.choices.batch_tokens)
        found = self.forward_backward(rows, width)
        largest = max(self._part_bytes(name) for name in self.layers)
        free = int(self.machine.memory_bytes / ALLOCATOR) - self.weight_bytes - found.peak_bytes
        budget = self.choices.factor_bytes or max(largest, free)
        parts = partitions(self.layers, max(budget, largest))
        under_construction = max(sum(self._part_bytes(name) for name in part) for part in parts)
        tokens = self.work.train_tokens * self.work.models
        shapes = [weight_shape(module) for module in self.layers.values()]
        per_token = sum(2 * (out * out + into * into) * 2 + 2 * out * into for out, into in shapes)
        passes = found.flops / (rows * width) * tokens * 2 * len(parts)
        eigen = EIGEN_OPERATIONS * sum(out**3 + into**3 for out, into in shapes) * self.work.models
        speed = self.machine.single_flops * self.machine.devices
        return Step(
            "04_example_influence",
            "fit factors",
            self._resident(self.weight_bytes + found.peak_bytes + under_construction),
            self.machine.seconds(passes, self.choices.dtype)
            + self.machine.seconds(per_token * tokens, torch.float32)
            + eigen / (speed * EIGEN_UTILISATION),
            disk_bytes=self.size().factor_bytes * self.work.models,
            note=f"{len(parts)} part{'s' if len(parts) > 1 else ''} of at most {under_construction / 2**30:.1f} GiB",
        )

    def _part_bytes(self, name: str) -> int:
        out, into = weight_shape(self.layers[name])
        return 4 * (2 * out * out + 2 * into * into + 2 * out * into)

    def score_step(self) -> Step:
        """Return the scoring of all tokens: one forward-mode pass per group of targets."""
        rows, width = self._rows(self.choices.batch_tokens)
        at_once = min(self.work.targets, self.choices.targets_at_once)
        found = self.scoring(rows, width, at_once)
        rounds = -(-self.work.targets // at_once)
        directions = at_once * self.size().attributed * self._width
        tokens = self.work.train_tokens * self.work.models * rounds
        return Step(
            "04_example_influence",
            "score",
            self._resident(self.weight_bytes + directions + found.peak_bytes),
            self.machine.seconds(found.flops / (rows * width) * tokens, self.choices.dtype),
            note=f"{at_once} target{'s' if at_once > 1 else ''} at once, {rows} × {width} tokens a batch",
        )

    def _resident(self, tensors: int) -> int:
        return int(tensors * ALLOCATOR)


def fitting(
    config: Any, work: Workload, machine: Machine, choices: Choices | None = None
) -> tuple[Planner, list[str]]:
    """Return a plan that fits the machine, and what had to be changed for it.

    Changes are tried in this order: fewer tokens a batch, one target at a time, gradient
    checkpointing, adapters (LoRA) instead of all weights.

    Raises
    ------
    ParameterError
        Naming the step that cannot fit, what it needs, and what would hold it.
    """
    plan = Planner(config, work, machine, choices)
    changes: list[str] = []
    while over := [step for step in plan.steps() if step.peak_bytes > machine.memory_bytes]:
        change = _next_change(plan, over[0])
        if change is None:
            raise ParameterError("--gpu-memory", f"{machine.memory_bytes / 2**30:.0f} GiB", _what_would(plan, over[0]))
        changes.append(change[0])
        plan = plan.with_choices(change[1])
    return plan, changes


def _next_change(plan: Planner, step: Step) -> tuple[str, Choices] | None:
    """Return the next thing to give up for a step that does not fit, in words and as choices."""
    now = plan.choices
    if step.what in ("fit factors", "score"):
        if now.batch_tokens > plan.work.longest:
            less = max(plan.work.longest, now.batch_tokens // 2)
            return f"{less} tokens a batch instead of {now.batch_tokens}", replace(now, batch_tokens=less)
        if step.what == "score" and now.targets_at_once > 1:
            return "one target at a time", replace(now, targets_at_once=1)
    if step.what == "fine-tune":
        if now.micro_batch != 1:
            return "one example at a time in fine-tuning, gradients accumulated", replace(now, micro_batch=1)
        if not now.checkpointing:
            return "gradient checkpointing", replace(now, checkpointing=True)
        if not now.lora_rank:
            return "LoRA of rank 16 instead of all weights", replace(now, lora_rank=16)
    return None


def _what_would(plan: Planner, step: Step) -> str:
    need = step.peak_bytes / 2**30
    text = f"{need:.0f} GiB or more for {step.notebook}, {step.what}"
    if step.what == "fine-tune":
        return text + "; more GPUs share the weights and the optimiser's state (--gpus)"
    return text + "; sequences cut shorter (max_tokens) or a smaller model need less"
