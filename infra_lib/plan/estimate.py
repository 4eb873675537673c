"""From a model's configuration, a workload and a machine to memory, hours and disk of every step.

Activations and operations are traced (:mod:`.trace`) for one batch; what is kept beside
them is counted:

==============  =================================================================================
step            bytes on one device
==============  =================================================================================
fine-tune       state (:func:`infra_lib.finetune.memory.state_bytes`), activations
generate        weights, keys and values of the answers that are written side by side, and their growth
fit factors     weights, the graph of one batch, factors under construction within their budget
score           weights, each target's direction twice, activations with one tangent per target
==============  =================================================================================

Allocators keep more than tensors hold; :data:`ALLOCATOR` stands for that, measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from infra_lib.attention import LONG
from infra_lib.curvature import weight_shape
from infra_lib.curvature.fit import construction_bytes, partitions
from infra_lib.finetune.config import MIXED, FinetuneConfig
from infra_lib.finetune.memory import lora_parameters, state_bytes
from infra_lib.finetune.trainer import CHUNK_ELEMENTS
from infra_lib.models import linears
from infra_lib.plan.hardware import Machine, gib
from infra_lib.plan.trace import Trace, Traced, meta_batch, meta_model
from infra_lib.plan.workload import Workload
from infra_lib.responses import HELD_LOGITS, HELD_LOGITS_CUDA

ALLOCATOR = 1.1
"""Resident memory over bytes in tensors, as measured on models of 10 to 130 million parameters."""

GROWN_CACHE = 1.6
"""Memory behind keys and values over their bytes at the end, as transformers keeps them.

They are copied to grow by a token, and what is let go is too small for what comes next. Measured; a paged
cache (vLLM's) has none of it.
"""

EIGEN_OPERATIONS, EIGEN_UTILISATION, EIGEN_UTILISATION_GPU = 9.0, 0.1, 0.03
"""Operations of an eigendecomposition of size n in n³, and what part of a product's speed it reaches.

On an H200 it was 0.016 at size 5,632 and 0.04 at 18,944 (``records/gpu``).
"""


@dataclass(frozen=True)
class Choices:
    """How attribution is cut, and how fine-tuning is: what a plan may change so that it fits.

    Attributes
    ----------
    batch_tokens
        Padded tokens per batch of attribution.
    targets_at_once
        Targets that one scoring pass serves.
    explorer_directions
        Directions that one scoring pass of notebook 08 serves.
    factor_bytes
        Budget of the factors under construction (``memory_bytes`` of the fit).
    attribution_dtype
        Of weights and activations in attribution and generation.
    finetune
        Settings of fine-tuning.
    engine
        What generates answers: ``transformers`` or ``vllm``.
    """

    batch_tokens: int = 4096
    targets_at_once: int = 2
    explorer_directions: int = 6
    factor_bytes: int = 2 * 2**30
    attribution_dtype: torch.dtype = torch.float32
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    engine: str = "transformers"


@dataclass(frozen=True)
class Step:
    """One step of a plan: where it belongs, and what it takes.

    ``peak_bytes`` is per device, ``seconds`` with all devices at work; ``parts`` are the partitions of a fit,
    0 elsewhere.
    """

    notebook: str
    what: str
    peak_bytes: int
    seconds: float
    disk_bytes: int = 0
    note: str = ""
    parts: int = 0


@dataclass(frozen=True)
class Size:
    """What a configuration amounts to.

    Attributes
    ----------
    parameters, attributed
        All weights (tied ones once), and those of the layers that attribution covers.
    layers
        Number of those layers.
    factor_bytes
        Factors of all layers, as they are stored.
    """

    parameters: int
    attributed: int
    layers: int
    factor_bytes: int


class Architecture:
    """A model's shapes and traced passes, from its configuration alone; plans may share it."""

    def __init__(self, config: Any) -> None:
        self.config = config
        whole = meta_model(config, torch.bfloat16)
        layers: dict[str, nn.Module] = linears(whole, None)
        self.layers = layers
        self.shapes = [weight_shape(module) for module in layers.values()]
        sides = sum(out * out + into * into for out, into in self.shapes)
        areas = sum(out * into for out, into in self.shapes)
        self.size = Size(sum(p.numel() for p in whole.parameters()), areas, len(layers), 4 * (sides + areas))
        self._traced: dict[torch.dtype, Traced] = {}

    def _take(self, dtype: torch.dtype, key: Any, step: Any) -> Trace:
        if dtype not in self._traced:
            self._traced[dtype] = Traced(self.config, dtype)
        return self._traced[dtype].take(key, step)

    def training(self, dtype: torch.dtype, rows: int, width: int, head: int) -> Trace:
        """Trace a forward and backward pass that trains every weight; its gradients are let go at once.

        They are counted with the rest of a training's state, which holds them from step to step.
        """

        def drop(parameter: torch.Tensor) -> None:
            parameter.grad = None

        def step(model: Any) -> None:
            hooks = [p.register_post_accumulate_grad_hook(drop) for p in model.parameters()]
            try:
                torch.autograd.backward(_log_probs(model, {}, rows, width, head).sum())
            finally:
                for hook in hooks:
                    hook.remove()

        return self._take(dtype, ("training", rows, width, head), step)

    def forward_backward(self, dtype: torch.dtype, rows: int, width: int, head: int) -> Trace:
        """Trace a forward and backward pass with frozen weights; ``head`` positions of a row get logits."""

        def step(model: Any) -> None:
            model.requires_grad_(False)
            hook = model.get_input_embeddings().register_forward_hook(
                lambda _m, _i, output: output.detach().requires_grad_(True)
            )
            try:
                torch.autograd.backward(_log_probs(model, {}, rows, width, head).sum())
            finally:
                hook.remove()
                model.requires_grad_(True)

        return self._take(dtype, ("backward", rows, width, head), step)

    def scoring(self, dtype: torch.dtype, rows: int, width: int, head: int, targets: int) -> Trace:
        """Trace a forward-mode pass for several targets."""

        def step(model: Any) -> Any:
            weights = {
                f"{name}.weight": model.get_parameter(f"{name}.weight").detach()
                for name in linears(model, None)
            }
            tangents = {name: weight.new_empty(targets, *weight.shape) for name, weight in weights.items()}

            def along(values: dict[str, torch.Tensor]) -> torch.Tensor:
                return _log_probs(model, values, rows, width, head)

            with torch.no_grad():
                return torch.func.vmap(lambda v: torch.func.jvp(along, (weights,), (v,))[1])(tangents)

        found = self._take(dtype, ("scores", rows, width, head, targets), step)
        # The directions are made inside the traced step, and the plan counts them.
        made = targets * self.size.attributed * _width(dtype)
        return Trace(found.peak_bytes - made, found.flops)

    def fused(self, dtype: torch.dtype, rows: int, width: int, head: int, *, trained: bool = False) -> Trace:
        """Return a forward and backward pass whose attention is never held as a whole.

        Bytes and operations under eager attention are c + a·T + b·T² in the sequence length T. Three
        short traces give them; fused attention (SDPA, flash) has the operations and not the T² bytes. Short
        rows are not worth it and stay eager (:func:`infra_lib.attention.fused_attention`).
        """
        passes = self.training if trained else self.forward_backward
        if width < LONG:
            return passes(dtype, rows, width, head)
        part, points = head / width, (256, 512, 768)
        traces = [passes(dtype, 1, t, max(1, round(t * part))) for t in points]
        _, slope, constant = np.polyfit(points, [trace.peak_bytes for trace in traces], 2)
        square, linear, _ = np.polyfit(points, [trace.flops for trace in traces], 2)
        tokens = rows * width
        return Trace(int(constant + tokens * slope), int(tokens * (linear + width * square)))


def _log_probs(model: Any, values: dict[str, torch.Tensor], rows: int, width: int, head: int) -> torch.Tensor:
    batch = meta_batch(rows, width)
    inputs = {**batch.inputs, "use_cache": False, "logits_to_keep": head}
    logits = torch.func.functional_call(model, values, (), inputs).logits.float()
    chosen = logits.gather(-1, batch.input_ids[:, :head, None]).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def _width(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits // 8


@dataclass(frozen=True)
class Plan:
    """Estimates for one architecture, workload and machine."""

    architecture: Architecture
    work: Workload
    machine: Machine
    choices: Choices = field(default_factory=Choices)

    def steps(self) -> list[Step]:
        """Return every step of the study's notebooks, in order."""
        work = self.work
        exam = work.test * work.samples
        found = [
            self.finetune(work.uniform_runs, "03_finetune_evaluate"),
            self.generate(exam * work.uniform_runs + work.target * work.models, "03_finetune_evaluate"),
            self.fit(),
            self.score(),
            self.score_positions(),
        ]
        if work.arm_runs:
            found += [
                self.finetune(work.arm_runs, "05_reweighting_arms"),
                self.generate(exam * work.arm_runs, "05_reweighting_arms"),
            ]
        if work.explored:
            found.append(self.explore())
        if work.retrainings:
            found.append(self.retrain())
        return found

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in attribution and generation."""
        return self.architecture.size.parameters * _width(self.choices.attribution_dtype)

    def batch(self) -> tuple[int, int]:
        """Return rows and tokens of attribution's largest batch."""
        width = self.work.lengths.longest
        return max(1, self.choices.batch_tokens // width), width

    def head(self) -> Trace:
        """Return the output head's share of attribution: slices of logits, forward and back, a token each."""
        config, lengths = self.architecture.config, self.work.lengths
        share = lengths.response / (lengths.prompt + lengths.response)
        # Logits, probabilities and their gradient, in four bytes each.
        held = HELD_LOGITS_CUDA if self.machine.is_gpu else HELD_LOGITS
        return Trace(3 * 4 * held, int(6 * config.hidden_size * config.vocab_size * share))

    def finetune(self, runs: int, notebook: str) -> Step:
        """Return fine-tuning: state shared under FSDP, activations of one micro-batch."""
        settings, size = self.choices.finetune, self.architecture.size
        low = settings.precision in MIXED
        dtype = torch.bfloat16 if low else torch.float32
        devices = self.machine.devices
        rows = max(1, settings.batch_size // (settings.accumulation(devices) * devices))
        width = self.work.lengths.longest
        adapters = (
            lora_parameters(self.architecture.shapes, settings.lora_rank) if settings.lora_rank else None
        )
        state = state_bytes(size.parameters, settings, trained=adapters, processes=devices)["total"]
        if settings.fsdp:
            # One decoder layer is gathered at a time.
            state += size.parameters // self.architecture.config.num_hidden_layers * _width(dtype)
        elif low:
            state += 2 * size.parameters
        # Adapters see the inputs of their layers as all weights do, and their own products are few.
        found = self.architecture.fused(dtype, rows, width, width, trained=True)
        body = self.architecture.fused(dtype, rows, width, 1, trained=True).peak_bytes
        # Logits, shifted to a copy, and the gradients of both; in float32, piece by piece, their
        # log-softmax, its gradient and what they are taken of.
        logits = rows * width * self.architecture.config.vocab_size
        head = 4 * logits * _width(dtype) + 3 * 4 * min(logits, CHUNK_ELEMENTS)
        activations, flops = body, found.flops / (rows * width)
        if settings.gradient_checkpointing:
            # The inputs of all layers are kept, and the inside of one.
            layers, hidden = self.architecture.config.num_hidden_layers, self.architecture.config.hidden_size
            activations = activations // layers + rows * width * hidden * layers * _width(dtype)
            flops *= 4 / 3
        flops *= self.work.train_tokens * self.work.epochs * runs
        notes = [f"{runs} run{'s' if runs > 1 else ''}, {rows} × {width} tokens on a device"]
        notes += ["FSDP"] if settings.fsdp else []
        notes += ["gradient checkpointing"] if settings.gradient_checkpointing else []
        notes += [f"LoRA of rank {settings.lora_rank}"] if settings.lora_rank else []
        return Step(
            notebook,
            "fine-tune",
            _resident(state + activations + head),
            self.machine.seconds(flops, dtype),
            disk_bytes=runs * size.parameters * 4,
            note=", ".join(notes),
        )

    def retrain(self) -> Step:
        """Return the trainings of the validation: on fewer examples, and no model of them is kept."""
        work = self.work
        one = self.finetune(1, "09_validation")
        seconds = one.seconds * work.retrained / (work.train * work.epochs)
        note = f"{work.retrainings} runs on parts of the examples"
        return replace(one, what="retrain", seconds=seconds, disk_bytes=0, note=note)

    def generate(self, answers: int, notebook: str) -> Step:
        """Return generation: a step of decoding reads the weights once and each answer's cache."""
        config, width = self.architecture.config, _width(self.choices.attribution_dtype)
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        each = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        length = self.work.lengths.prompt + self.work.answer_tokens
        cache = 2 * config.num_hidden_layers * heads * each * width * length
        grown = 1.0 if self.choices.engine == "vllm" else GROWN_CACHE
        one = int(grown * cache) + 8 * config.vocab_size
        room = self.machine.memory_bytes / ALLOCATOR * 0.9 - self.weight_bytes
        side_by_side = int(min(64, answers, max(1, room // one)))
        turns = answers * self.work.answer_tokens / side_by_side / self.machine.devices
        reading = turns * (self.weight_bytes + side_by_side * cache) / self.machine.bandwidth
        flops = 2 * self.architecture.size.parameters * answers * length
        return Step(
            notebook,
            "generate",
            _resident(self.weight_bytes + side_by_side * one),
            max(reading, self.machine.seconds(flops, self.choices.attribution_dtype)),
            note=f"{answers:,} answers, {side_by_side} side by side",
        )

    def fit(self) -> Step:
        """Return the fit of the factors: every part passes over the training set twice."""
        dtype, (rows, width), head = self.choices.attribution_dtype, self.batch(), self.head()
        # The head is met in slices: the graph is that of the layers below it.
        found = self.architecture.fused(dtype, rows, width, 1)
        layers, work = self.architecture.layers, self.work
        largest = max(construction_bytes(module, False) for module in layers.values())
        budget = max(largest, self.choices.factor_bytes)
        parts = partitions(layers, budget)
        # What the factors of a part leave of the budget keeps rows of the first pass for the second.
        rows_bytes = 4 * work.train_tokens * sum(map(sum, self.architecture.shapes)) // len(parts)
        held = max(sum(construction_bytes(layers[name], False) for name in part) for part in parts)
        construction = min(budget, held + rows_bytes)
        tokens = work.train_tokens * work.models
        shapes = self.architecture.shapes
        per_token = sum(4 * (out * out + into * into) + 2 * out * into for out, into in shapes)
        passes = (found.flops / (rows * width) + head.flops) * tokens * 2 * len(parts)
        eigen = EIGEN_OPERATIONS * sum(out**3 + into**3 for out, into in shapes) * work.models
        seconds = self.machine.seconds(passes, dtype) + self.machine.seconds(
            per_token * tokens, torch.float32
        )
        part = EIGEN_UTILISATION_GPU if self.machine.is_gpu else EIGEN_UTILISATION
        speed = self.machine.single_flops * self.machine.devices * part
        plural = "s" if len(parts) > 1 else ""
        return Step(
            "04_example_influence",
            "fit factors",
            _resident(self.weight_bytes + found.peak_bytes + head.peak_bytes + construction),
            seconds + eigen / speed,
            disk_bytes=self.architecture.size.factor_bytes * work.models,
            note=f"{len(parts)} part{plural} of at most {gib(held)}, {rows} × {width} tokens a batch",
            parts=len(parts),
        )

    def score(self) -> Step:
        """Return the scoring of all tokens: one forward-mode pass per group of targets."""
        dtype, (rows, width), head = self.choices.attribution_dtype, self.batch(), self.head()
        at_once = min(self.work.targets, self.choices.targets_at_once)
        found = self.architecture.scoring(dtype, rows, width, 1, at_once)
        # Directions, and their stack as the tangents of one pass.
        directions = 2 * at_once * self.architecture.size.attributed * _width(dtype)
        tokens = self.work.train_tokens * self.work.models * -(-self.work.targets // at_once)
        return Step(
            "04_example_influence",
            "score",
            _resident(self.weight_bytes + directions + found.peak_bytes + head.peak_bytes),
            self.machine.seconds((found.flops / (rows * width) + head.flops) * tokens, dtype),
            note=f"{at_once} target{'s' if at_once > 1 else ''} at once, {rows} × {width} tokens a batch",
        )

    def score_positions(self) -> Step:
        """Return the other reading of a token: one backward pass per group of targets."""
        dtype, (rows, width), head = self.choices.attribution_dtype, self.batch(), self.head()
        at_once = min(self.work.targets, self.choices.targets_at_once)
        found = self.architecture.fused(dtype, rows, width, 1)
        directions = at_once * self.architecture.size.attributed * _width(dtype)
        # The inputs of every layer, which are kept until the backward pass meets it.
        seen = rows * width * sum(into for _, into in self.architecture.shapes) * _width(dtype)
        # What a layer's directions make of its inputs, and that times its gradients.
        seen += 2 * rows * width * max(out for out, _ in self.architecture.shapes) * _width(dtype)
        tokens = self.work.train_tokens * self.work.models * -(-self.work.targets // at_once)
        return Step(
            "04_example_influence",
            "score positions",
            _resident(self.weight_bytes + directions + found.peak_bytes + head.peak_bytes + seen),
            self.machine.seconds((found.flops / (rows * width) + head.flops) * tokens, dtype),
            note=f"one backward pass, {rows} × {width} tokens a batch",
        )

    def explore(self) -> Step:
        """Return the scores of notebook 08: one model, several methods, both readings of a token."""
        dtype, (rows, width), head = self.choices.attribution_dtype, self.batch(), self.head()
        asked = self.work.explored_directions
        at_once = min(asked, self.choices.explorer_directions)
        # Batches shrink with the number of directions.
        rows = max(1, 2 * rows // max(2, at_once))
        found = self.architecture.scoring(dtype, rows, width, 1, at_once)
        # All directions are kept, and those of a pass are stacked.
        directions = (asked + at_once) * self.architecture.size.attributed * _width(dtype)
        tokens = self.work.train_tokens * self.work.explored / self.work.train
        passes = 2 * -(-asked // at_once)
        return Step(
            "08_explorer",
            "score",
            _resident(self.weight_bytes + directions + found.peak_bytes + head.peak_bytes),
            self.machine.seconds((found.flops / (rows * width) + head.flops) * tokens * passes, dtype),
            note=f"{asked} directions, {at_once} at once, two readings, {rows} × {width} tokens a batch",
        )


def _resident(tensors: float) -> int:
    return int(tensors * ALLOCATOR)
