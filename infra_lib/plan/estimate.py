"""From a model's configuration, a workload and a machine to memory, hours and disk of every step.

Activations and operations are traced (:mod:`.trace`) for one batch; what is kept beside
them is counted:

==============  =================================================================================
step            bytes on one device
==============  =================================================================================
fine-tune       state (:func:`infra_lib.finetune.memory.state_bytes`), activations
generate        weights, keys and values of the answers that are written side by side, and their growth
fit factors     weights; the most of: covariances, kept rows and the graph of one batch; a decomposition;
                factors under construction, the graph and the inputs that wait for it
score           weights, each target's direction twice, activations with one tangent per target
==============  =================================================================================

Allocators keep more than tensors hold; :data:`ALLOCATOR` stands for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from infra_lib.attention import leaves_eager
from infra_lib.curvature import construction_bytes, layer_groups, partitions, weight_shape
from infra_lib.curvature.labels import SAMPLED_PARTS
from infra_lib.evaluate.generate.transformers_engine import CACHE_BYTES, cached_bytes
from infra_lib.finetune.config import MIXED, FinetuneConfig
from infra_lib.finetune.memory import lora_parameters, state_bytes
from infra_lib.influence import sums_stay
from infra_lib.plan.hardware import Machine, gib
from infra_lib.plan.passes import Architecture, Passes, bytes_of
from infra_lib.plan.trace import Trace
from infra_lib.plan.workload import Lengths, MethodWork, Workload
from infra_lib.responses import HELD_LOGITS, HELD_LOGITS_CUDA

ALLOCATOR = 1.1
"""Memory over bytes in tensors; the C library's keeps more for models so small that they need no plan."""

EIGEN_COPIES, EIGEN_COPIES_GPU = 3, 5
"""Matrices of its size that an eigendecomposition takes beside the matrix.

Measured: on a CPU at size 2,500, on a GPU as the difference of two sizes (``records/gpu/partition.json``).
"""

HOST_BYTES = 1e10
"""Bytes a second at which gradients travel from a GPU to the CPU and are added up there: our choice."""

EIGEN_OPERATIONS, EIGEN_UTILISATION, EIGEN_UTILISATION_GPU = 9.0, 0.1, 0.03
"""Operations of an eigendecomposition of size n in n³, and what part of a product's speed it reaches.

On an H200 it was 0.016 at size 5,632 and 0.04 at 18,944 (``records/gpu``).
"""


CONJUGATE_STACKS, STOCHASTIC_STACKS, STEP_PRODUCTS = 11, 8, 5
"""Stacks that the solvers of :mod:`infra_lib.refine` hold in a product, and products of a step's size.

Both hold the right side, EK-FAC's solution, what the record keeps (start, residual, image) and the sum of
the product; conjugate gradients the solution, its residual, the search, its image and its preconditioned
residual; the stochastic iterations the iterate and their average.
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
            *([self.pretrain()] if work.pretrainings else []),
            self.finetune(work.uniform_runs, "03_finetune_evaluate"),
            self.generate(exam * work.uniform_runs + work.target * work.models, "03_finetune_evaluate"),
            self.fit(),
            self.directions(),
            self.score(),
            self.score_positions(),
        ]
        if work.arm_runs:
            found += [
                self.finetune(work.arm_runs, "05_reweighting_arms"),
                # The untuned models sit the exam beside the arms.
                self.generate(exam * (work.arm_runs + work.models), "05_reweighting_arms"),
            ]
        if work.method:
            found += self.method(work.method)
        if work.explored:
            found += self.explore()
        if work.retrainings:
            found.append(self.retrain())
        return found

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in attribution and generation."""
        return self.architecture.size.parameters * bytes_of(self.choices.attribution_dtype)

    def batch(self) -> tuple[int, int]:
        """Return rows and tokens of attribution's largest batch."""
        width = self.work.lengths.longest
        return max(1, self.choices.batch_tokens // width), width

    def pass_over(
        self, rows: int, width: int, passes: Passes | None = None, *, forward_mode: bool = False
    ) -> Trace:
        """Return a pass of attribution over a batch, with the logits of one position of a row.

        The rest are met in slices (:meth:`head`). Attention is fused on a GPU and where rows are long.
        """
        passes = passes or self.architecture.forward_backward
        if leaves_eager(width, on_gpu=self.machine.is_gpu, forward_mode=forward_mode):
            passes = partial(self.architecture.fused, passes=passes)
        return passes(self.choices.attribution_dtype, rows, width, 1)

    def scoring(self, rows: int, width: int, targets: int) -> Trace:
        """Return a forward-mode pass over a batch: on a GPU attention has a rule of its own.

        Nothing of the layers below is held where the head is met.
        """
        passes = partial(self.architecture.scoring, targets=targets)
        return self.pass_over(rows, width, passes, forward_mode=True)

    def head(self, *, drawn: bool = False) -> Trace:
        """Return the output head's share of attribution: slices of logits, forward and back, a token each.

        Parameters
        ----------
        drawn
            Labels are drawn from the logits: their sums in double precision are held as well.
        """
        config, lengths = self.architecture.config, self.work.lengths
        share = lengths.response / (lengths.prompt + lengths.response)
        # Logits, probabilities and their gradient, in four bytes each.
        held = HELD_LOGITS_CUDA if self.machine.is_gpu else HELD_LOGITS
        each = 3 * 4 + (16 // SAMPLED_PARTS if drawn else 0)
        return Trace(each * held, int(6 * config.hidden_size * config.vocab_size * share))

    def finetune(self, runs: int, notebook: str, *, masked: bool = True) -> Step:
        """Return fine-tuning: state shared under FSDP, activations of one micro-batch.

        Parameters
        ----------
        masked
            Examples of a micro-batch are of several lengths, so that attention is given a mask.
        """
        settings, size = self.choices.finetune, self.architecture.size
        low = settings.precision in MIXED
        dtype = torch.bfloat16 if low else torch.float32
        devices = self.machine.devices
        rows = -(-settings.batch_size // (settings.accumulation(devices) * devices))
        width = self.work.lengths.longest
        targets = settings.lora_targets if settings.lora_rank else ()
        adapters = (
            lora_parameters(self.architecture.adapted(targets), settings.lora_rank) if targets else None
        )
        state = state_bytes(size.parameters, settings, trained=adapters, processes=devices)["total"]
        if settings.fsdp:
            # One decoder layer is gathered at a time, and what belongs to none.
            layers = self.architecture.layer_parameters
            gathered = layers // self.architecture.config.num_hidden_layers + size.parameters - layers
            state += gathered * bytes_of(dtype)
        passes: Passes = partial(
            self.architecture.training,
            checkpointing=settings.gradient_checkpointing,
            # FSDP hands out weights in the lower type; a base that adapters leave alone is in it already.
            mixed=low and not settings.fsdp and not targets,
            adapters=targets,
        )
        if settings.attention != "eager":
            passes = partial(self.architecture.fused, passes=passes)
        # Only attention without masks knows where packed examples end.
        whole = settings.packing and settings.attention in ("eager", "sdpa")
        shape = (1, rows * width) if whole else (rows, width)
        found = passes(dtype, *shape, shape[1])
        flops = found.flops / (rows * width)
        flops *= self.work.train_tokens * self.work.epochs * runs
        notes = [f"{runs} run{'s' if runs > 1 else ''}, {rows} × {width} tokens on a device"]
        notes += ["FSDP"] if settings.fsdp else []
        notes += ["gradient checkpointing"] if settings.gradient_checkpointing else []
        notes += [f"LoRA of rank {settings.lora_rank}"] if settings.lora_rank else []
        return Step(
            notebook,
            "fine-tune",
            _resident(state + found.peak_bytes + masked * self._masks(rows, width, bytes_of(dtype))),
            self.machine.seconds(flops, dtype),
            disk_bytes=runs * self.architecture.stored_bytes,
            note=", ".join(notes),
        )

    def _masks(self, rows: int, width: int, element: int) -> int:
        """Return bytes of the masks that PyTorch's attention is given where examples share a batch.

        One of truth values for all layers, and for every layer one in the type of its activations, which is
        kept for the backward pass. Flash and flex attention have none.
        """
        settings = self.choices.finetune
        if settings.attention != "sdpa" or rows == 1:
            return 0
        layers = 1 if settings.gradient_checkpointing else self.architecture.config.num_hidden_layers
        tokens = rows * width
        return (tokens * tokens if settings.packing else rows * width * width) * (1 + layers * element)

    def pretrain(self) -> Step:
        """Return the training of the base models, on packed sequences of equal length."""
        work, block = self.work, self.work.block
        packed = replace(
            work,
            train=work.pretrainings * work.pretrain_tokens // block,
            lengths=Lengths(block, 0, block),
            epochs=1,
        )
        settings = FinetuneConfig(batch_size=work.pretrain_batch, gradient_accumulation=1)
        own = replace(self, work=packed, choices=replace(self.choices, finetune=settings))
        one = own.finetune(1, "02_base_model", masked=False)
        count = work.pretrainings
        note = f"{count} model{'s' if count > 1 else ''}, {work.pretrain_batch} × {block} tokens on a device"
        return replace(one, what="pretrain", disk_bytes=count * one.disk_bytes, note=note)

    def retrain(self) -> Step:
        """Return the trainings of the validation: on fewer examples, and no model of them is kept."""
        work = self.work
        one = self.finetune(1, "09_validation")
        seconds = one.seconds * work.retrained / (work.train * work.epochs)
        note = f"{work.retrainings} runs on parts of the examples"
        return replace(one, what="retrain", seconds=seconds, disk_bytes=0, note=note)

    def generate(self, answers: int, notebook: str) -> Step:
        """Return generation: a step of decoding reads the weights once and each answer's cache."""
        config, width = self.architecture.config, bytes_of(self.choices.attribution_dtype)
        length = self.work.lengths.prompt + self.work.answer_tokens
        cache = cached_bytes(config, width) * length
        # A layer's keys and values are copied to grow by a token; a paged cache has no copies.
        grown = 1.0 if self.choices.engine == "vllm" else 1 + 1 / config.num_hidden_layers
        one = int(grown * cache) + 8 * config.vocab_size
        room = self.machine.memory_bytes / ALLOCATOR * 0.9 - self.weight_bytes
        batch = CACHE_BYTES // cache if self.machine.is_gpu and self.choices.engine == "transformers" else 64
        side_by_side = int(max(1, min(batch, answers, room // one)))
        # transformers draws a model's answers on one GPU, vLLM on all; on a CPU all cores share them.
        machine = self.machine
        if machine.is_gpu and self.choices.engine != "vllm":
            machine = replace(machine, devices=1)
        turns = answers * self.work.answer_tokens / side_by_side / machine.devices
        reading = turns * (self.weight_bytes + side_by_side * cache) / self.machine.bandwidth
        flops = 2 * self.architecture.size.parameters * answers * length
        return Step(
            notebook,
            "generate",
            _resident(self.weight_bytes + side_by_side * one),
            max(reading, machine.seconds(flops, self.choices.attribution_dtype)),
            note=f"{answers:,} answers, {side_by_side} side by side",
        )

    def fit(self, *, diagonal: bool = False) -> Step:
        """Return the fit of the factors: every part passes over the training set twice."""
        dtype, (rows, width), head = self.choices.attribution_dtype, self.batch(), self.head(drawn=True)
        found = self.pass_over(rows, width)
        layers, work = self.architecture.layers, self.work
        largest = max(construction_bytes(module, diagonal) for module in layers.values())
        budget = max(largest, self.choices.factor_bytes)
        parts = partitions(layers, budget, diagonal=diagonal)
        held = max(sum(construction_bytes(layers[name], diagonal) for name in part) for part in parts)
        graph = found.peak_bytes + head.peak_bytes
        most = max(self._fit_bytes([layers[name] for name in part], graph, diagonal) for part in parts)
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
            _resident(self.weight_bytes + most),
            seconds + eigen / speed,
            disk_bytes=self.architecture.size.factor_bytes * work.models,
            note=f"{len(parts)} part{plural} of at most {gib(held)}, {rows} × {width} tokens a batch",
            parts=len(parts),
        )

    def _fit_bytes(self, part: Sequence[nn.Module], graph: int, diagonal: bool) -> int:
        """Return the most bytes beside the weights while a part of the layers is fitted.

        ``graph`` is of a batch's forward and backward pass, its logits counted.
        """
        # Each device has a shard of the examples.
        (rows, width), tokens = self.batch(), -(-self.work.train_tokens // self.machine.devices)
        shapes = [weight_shape(module) for module in part]
        held = sum(construction_bytes(module, diagonal) for module in part)
        covariances = 4 * sum(out * out + into * into for out, into in shapes)
        copies = EIGEN_COPIES_GPU if self.machine.is_gpu else EIGEN_COPIES
        decomposed = copies * 4 * max(max(shape) for shape in shapes) ** 2
        # What the factors leave of the budget keeps rows of whole batches from the first pass for the second.
        # Of the last of them, inputs alone stand beside the whole graph: gradients come as it is let go.
        batch = min(rows * width, tokens)
        row = 4 * sum(map(sum, shapes))
        room = max(0, self.choices.factor_bytes - held)
        kept = min(room // (batch * row) * batch, tokens) * row
        last = min(kept, batch * row)
        inputs = last * sum(into for _, into in shapes) // sum(map(sum, shapes))
        first = covariances + graph + kept - last + inputs
        # The second pass takes what is kept, and then batches through the model again, whose inputs wait.
        waiting = batch * sum(into for _, into in shapes) * bytes_of(self.choices.attribution_dtype)
        second = held + (kept if kept == tokens * row else max(kept, graph + waiting))
        return max(first, covariances + kept + decomposed, second)

    def resident(self, directions: int, at_once: int) -> int:
        """Return how many directions are on the device in a pass: those of later passes wait beside a GPU."""
        return at_once if self.machine.is_gpu and at_once < directions else directions

    def directions(
        self, notebook: str = "04_example_influence", kinds: int = 1, models: int = 0, at_once: int = 0
    ) -> Step:
        """Return the targets' gradients and what is made of them: one target at a time, in float32.

        Of each target ``kinds`` directions are kept, in the type of the model; ``models`` (0: all that are
        attributed) differentiate; ``at_once`` (0: as scored in notebook 04) share a scoring pass.
        """
        dtype, (rows, width), head = self.choices.attribution_dtype, self.batch(), self.head()
        size, work = self.architecture.size, self.work
        models = models or work.models
        found = self.pass_over(rows, width, self.architecture.gradients)
        at_once = at_once or min(work.targets, self.choices.targets_at_once)
        all_stay = self.resident(work.targets * kinds, at_once) == work.targets * kinds
        before = (work.targets - 1) * kinds * size.attributed * bytes_of(dtype) if all_stay else 0
        # A layer's factors and the products that turn a gradient; the directions that it has become.
        turned = max(
            4 * (out * out + into * into) + 4 * 4 * out * into for out, into in self.architecture.shapes
        )
        turned += kinds * size.attributed * bytes_of(dtype)
        sums, travelling = 4 * size.attributed, 0.0
        if self.machine.is_gpu and not sums_stay(size.attributed, self.machine.memory_bytes):
            shards = self.machine.devices * rows
            batches = -(-work.target // shards) * models
            travelling = batches * size.attributed * (bytes_of(dtype) + 8) / HOST_BYTES
            sums = 0
        held = self.weight_bytes + before + sums
        tokens = work.target * (work.lengths.prompt + work.lengths.response) * models
        flops = (found.flops / (rows * width) + head.flops) * tokens
        turns = self.turning() * work.targets * kinds * models
        return Step(
            notebook,
            "directions",
            _resident(held + max(turned, found.peak_bytes + head.peak_bytes)),
            self.machine.seconds(flops, dtype) + self.machine.seconds(turns, torch.float32) + travelling,
            note=f"{work.targets * kinds} of {work.target:,} responses, {rows} × {width} tokens a batch",
        )

    def score(self) -> Step:
        """Return the scoring of all tokens: one forward-mode pass per group of targets."""
        dtype, (rows, width), head = self.choices.attribution_dtype, self.batch(), self.head()
        at_once = min(self.work.targets, self.choices.targets_at_once)
        found = self.scoring(rows, width, at_once)
        # Directions, and the stack of those of a pass as its tangents.
        here = self.resident(self.work.targets, at_once) + at_once
        directions = here * self.architecture.size.attributed * bytes_of(dtype)
        tokens = self.work.train_tokens * self.work.models * -(-self.work.targets // at_once)
        return Step(
            "04_example_influence",
            "score",
            _resident(self.weight_bytes + directions + max(found.peak_bytes, head.peak_bytes)),
            self.machine.seconds((found.flops / (rows * width) + head.flops) * tokens, dtype),
            note=f"{at_once} target{'s' if at_once > 1 else ''} at once, {rows} × {width} tokens a batch",
        )

    def score_positions(self) -> Step:
        """Return the other reading of a token: one backward pass per group of targets."""
        dtype, (rows, width), head = self.choices.attribution_dtype, self.batch(), self.head()
        at_once = min(self.work.targets, self.choices.targets_at_once)
        found = self.pass_over(rows, width)
        here = self.resident(self.work.targets, at_once)
        directions = here * self.architecture.size.attributed * bytes_of(dtype)
        # The inputs of every layer, which are kept until the backward pass meets it.
        seen = rows * width * sum(into for _, into in self.architecture.shapes) * bytes_of(dtype)
        # What a layer's directions make of its inputs, and that times its gradients.
        seen += 2 * rows * width * max(out for out, _ in self.architecture.shapes) * bytes_of(dtype)
        tokens = self.work.train_tokens * self.work.models * -(-self.work.targets // at_once)
        return Step(
            "04_example_influence",
            "score positions",
            _resident(self.weight_bytes + directions + found.peak_bytes + head.peak_bytes + seen),
            self.machine.seconds((found.flops / (rows * width) + head.flops) * tokens, dtype),
            note=f"one backward pass, {rows} × {width} tokens a batch",
        )

    def method(self, asked: MethodWork) -> list[Step]:
        """Return the steps of notebook 07, which works on one device, for all targets at once.

        Its factors and directions stay in memory, in float32; refinement and sweep see eager attention.
        """
        work, size, dtype = self.work, self.architecture.size, self.choices.attribution_dtype
        plan = replace(
            self,
            work=replace(work, train=asked.examples, models=1),
            machine=replace(self.machine, devices=1),
            choices=replace(self.choices, targets_at_once=work.targets),
        )
        rows, width = self.batch()
        one = self.pass_over(rows, width)
        each = one.flops / (rows * width) + self.head().flops
        tokens, length = plan.work.train_tokens, work.lengths.prompt + work.lengths.response
        stack = 4 * work.targets * size.attributed  # a direction of every target
        factors = size.factor_bytes + 4 * size.attributed  # and the diagonal
        held = self.weight_bytes + factors + stack

        def step(what: str, like: Step, more: float, seconds: float, note: str) -> Step:
            peak = like.peak_bytes + _resident(more)
            return Step("07_method", what, peak, like.seconds + seconds, note=note, parts=like.parts)

        # Gradients of the layers' weights cost half as much again as those of activations alone.
        gradients = plan.machine.seconds(1.5 * each * asked.responses * length, dtype)
        fit = plan.fit(diagonal=True)
        return [
            step("fit factors", fit, factors, gradients, f"of {asked.examples} examples; {fit.note}"),
            self._readings(plan, factors + stack),
            self._refinement(plan, asked, held + stack),
            self._sweep(plan, asked, held + (1 + 2 * asked.refined) * stack, each * tokens),
        ]

    @staticmethod
    def _readings(plan: Plan, held: float) -> Step:
        """Return both readings of the tokens of notebook 07, and a backward pass per token of an example."""
        loss, position = plan.score(), plan.score_positions()
        dtype, (rows, width) = plan.choices.attribution_dtype, plan.batch()
        example = plan.work.lengths.prompt + plan.work.lengths.response
        # Every pass is of the whole example, forward once.
        one = plan.architecture.forward_backward(dtype, rows, width, width).flops / (rows * width)
        slow = plan.machine.seconds(one * example * plan.work.lengths.response, dtype)
        return Step(
            "07_method",
            "score",
            max(loss.peak_bytes, position.peak_bytes) + _resident(held),
            loss.seconds + position.seconds + slow,
            note=f"two readings, and {plan.work.lengths.response:,} backward passes; {loss.note}",
        )

    @staticmethod
    def _refinement(plan: Plan, asked: MethodWork, held: float) -> Step:
        """Return notebook 07's solutions of the Gauss–Newton system, by two solvers at every damping."""
        size, work, dtype = plan.architecture.size, plan.work, plan.choices.attribution_dtype
        rows, width = plan.batch()
        share = work.lengths.response / (work.lengths.prompt + work.lengths.response)
        found = plan.architecture.products(dtype, rows, width, max(1, round(width * share)), work.targets)
        stack = 4 * work.targets * size.attributed
        # The product's tangents, where weights have another type.
        tangents = 0 if dtype == torch.float32 else work.targets * size.attributed * bytes_of(dtype)
        # What a solver holds in a product beside its result, and the solutions before it, that are kept.
        solvers = max(CONJUGATE_STACKS + asked.refined - 1, STOCHASTIC_STACKS + 2 * asked.refined - 1)
        batch = min(asked.batch, asked.examples)
        turns = max(1, asked.passes * asked.examples // asked.batch)
        # Conjugate gradients: the start and every pass. Minibatches: the start, two checks, the step's size.
        examples = asked.refined * (
            (1 + asked.passes) * asked.examples + 3 * asked.examples + (STEP_PRODUCTS + turns) * batch
        )
        turned = asked.refined * (3 + 2 * asked.passes + 5 + STEP_PRODUCTS + turns)
        plural = "s" if asked.refined > 1 else ""
        per_token = found.flops / (rows * width)
        seconds = plan.machine.seconds(per_token * examples * work.train_tokens / work.train, dtype)
        seconds += plan.machine.seconds(turned * work.targets * plan.turning(), torch.float32)
        return Step(
            "07_method",
            "refine",
            _resident(held + tangents + solvers * stack + found.peak_bytes),
            seconds,
            note=f"{asked.refined} damping{plural} by two solvers, {rows} × {width} tokens a batch",
        )

    @staticmethod
    def _sweep(plan: Plan, asked: MethodWork, held: float, flops: float) -> Step:
        """Return notebook 07's scores along all directions, layers in groups that fit the factors' budget."""
        work, dtype = plan.work, plan.choices.attribution_dtype
        rows, width = plan.batch()
        number = work.targets * asked.directions
        needs = {
            f"{k}": 2 * number * 4 * out * into for k, (out, into) in enumerate(plan.architecture.shapes)
        }
        groups = layer_groups(needs, plan.choices.factor_bytes)
        share = work.lengths.response / (work.lengths.prompt + work.lengths.response)
        found = plan.architecture.forward_backward(dtype, rows, width, max(1, round(width * share)))
        shapes = plan.architecture.shapes
        largest = max(groups, key=lambda group: sum(needs[name] for name in group))
        # Inputs and gradients of a group's layers, in the model's type.
        seen = rows * width * sum(sum(shapes[int(name)]) for name in largest) * bytes_of(dtype)
        # A layer's gradients of every example of a batch.
        own = 4 * rows * max(out * into for out, into in shapes)
        seconds = plan.machine.seconds(flops * len(groups), dtype)
        seconds += plan.machine.seconds(number * plan.turning() * 2 / 3, torch.float32)
        return Step(
            "07_method",
            "sweep",
            _resident(held + sum(needs[name] for name in largest) + found.peak_bytes + seen + own),
            seconds,
            note=f"{number} directions, layers in {len(groups)} group{'s' if len(groups) > 1 else ''}",
        )

    def turning(self) -> float:
        """Return the operations that precondition one direction: into the eigenbasis and back."""
        return sum(4.0 * (out * out * into + out * into * into) for out, into in self.architecture.shapes)

    def explore(self) -> list[Step]:
        """Return the steps of notebook 08: one model, several methods, both readings of a token."""
        dtype, (rows, width), head = self.choices.attribution_dtype, self.batch(), self.head()
        asked = self.work.explored_directions
        at_once = min(asked, self.choices.explorer_directions)
        # Batches shrink with the number of directions.
        rows = max(1, 2 * rows // max(2, at_once))
        found = self.scoring(rows, width, at_once)
        # Directions, and the stack of those of a pass.
        directions = (
            (self.resident(asked, at_once) + at_once) * self.architecture.size.attributed * bytes_of(dtype)
        )
        tokens = self.work.train_tokens * self.work.explored / self.work.train
        passes = 2 * -(-asked // at_once)
        score = Step(
            "08_explorer",
            "score",
            _resident(self.weight_bytes + directions + max(found.peak_bytes, head.peak_bytes)),
            self.machine.seconds((found.flops / (rows * width) + head.flops) * tokens * passes, dtype),
            note=f"{asked} directions, {at_once} at once, two readings, {rows} × {width} tokens a batch",
        )
        kinds = -(-asked // self.work.targets)
        return [self.directions("08_explorer", kinds, models=1, at_once=at_once), score]


def _resident(tensors: float) -> int:
    return int(tensors * ALLOCATOR)
