"""What one attribution of anybody's examples costs: from the model's configuration and token counts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from infra_lib.errors import ParameterError
from infra_lib.models import Encoded
from infra_lib.plan.estimate import ALLOCATOR, Choices, Plan, Step
from infra_lib.plan.fit import fitted
from infra_lib.plan.hardware import Machine, count, duration, gib, gpu_machine, this_machine
from infra_lib.plan.passes import Architecture, bytes_of
from infra_lib.plan.workload import Lengths, Workload


@dataclass(frozen=True)
class AttributionPlan(Plan):
    """A plan of target gradients, factors, scores, and the cosines of gradients beside them.

    Attributes
    ----------
    target_tokens
        Of all correct responses with their prompts.
    """

    target_tokens: int = 0

    def steps(self) -> list[Step]:
        """Return the steps in order."""
        dtype, (rows, width), head = self.choices.attribution_dtype, self.batch(), self.head()
        one = self.pass_over(rows, width, self.architecture.gradients)
        each = one.flops / (rows * width) + head.flops
        # Gradients of all targets stay, in float32, beside their directions, which are in float32 too.
        kept = self.work.targets * self.architecture.size.attributed * 4
        memory = int(ALLOCATOR * (self.weight_bytes + kept + one.peak_bytes + head.peak_bytes))
        score = self.score()
        more = 2 * kept - self.work.targets * self.architecture.size.attributed * bytes_of(dtype)
        score = replace(score, peak_bytes=score.peak_bytes + int(ALLOCATOR * more))

        # The gradients of examples: eager attention, all logits of the responses, the inputs and gradients of
        # every layer, and a layer's gradients of every example of a batch.
        lengths, shapes = self.work.lengths, self.architecture.shapes
        share = lengths.response / (lengths.prompt + lengths.response)
        found = self.architecture.forward_backward(dtype, rows, width, max(1, round(width * share)))
        seen = rows * width * sum(map(sum, shapes)) * bytes_of(dtype)
        own = 4 * rows * max(out * into for out, into in shapes)
        whole = int(ALLOCATOR * (self.weight_bytes + kept + found.peak_bytes + seen + own))

        def passes(what: str, tokens: int, peak: int) -> Step:
            return Step(
                "adapt", what, peak, self.machine.seconds(each * tokens, dtype), note=f"{tokens:,} tokens"
            )

        gradients = passes("target gradients", self.target_tokens, memory)
        cosines = passes("gradient cosines", self.target_tokens + self.work.train_tokens, max(memory, whole))
        return [gradients, self.fit(), score, cosines]


@dataclass(frozen=True)
class AttributionCost:
    """An attribution that fits its machine: its steps, and what was changed so that it does."""

    model: str
    plan: AttributionPlan
    changes: list[str]

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(step.seconds for step in self.plan.steps())

    @property
    def peak_bytes(self) -> int:
        """Most memory that any step takes."""
        return max(step.peak_bytes for step in self.plan.steps())

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        size, work, steps = self.plan.architecture.size, self.plan.work, self.plan.steps()
        disk = gib(sum(step.disk_bytes for step in steps))
        tokens = work.train_tokens + self.plan.target_tokens
        return [
            f"plan: {self.model} on {self.plan.machine.name}",
            f"  {count(size.parameters)} parameters, {count(size.attributed)} in {size.layers} MLP layers",
            f"  {work.train} training and {work.target} target examples, {tokens:,} tokens, "
            f"at most {work.lengths.longest} in one",
            *(
                f"  {step.what:17} {gib(step.peak_bytes):>9} {duration(step.seconds):>8}  {step.note}"
                for step in steps
            ),
            f"  {'together':17} {gib(self.peak_bytes):>9} {duration(self.seconds):>8}"
            f"  {disk} of factors on disk",
            *(f"  so that it fits: {change}" for change in self.changes),
        ]


def plan_attribution(
    model: str,
    config: Any,
    train: Sequence[Encoded],
    targets: Mapping[str, Sequence[Encoded]],
    machine: Machine,
    choices: Choices,
) -> AttributionCost:
    """Return what an attribution costs, without the model's weights.

    Parameters
    ----------
    model
        Its name, for the text.
    config
        Its configuration.
    train, targets
        Training examples, and each target's correct responses, in tokens.
    machine
        Where it is to run.
    choices
        Batch, budget of the factors and type; a smaller batch is chosen where this one does not fit.

    Raises
    ------
    ParameterError
        Where nothing makes it fit, with what would hold it.
    """
    responses = [row for rows in targets.values() for row in rows]
    response = max(1, sum(row.n_tokens for row in train) // len(train))
    whole = -(-sum(len(row.input_ids) for row in train) // len(train))
    work = Workload(
        train=len(train),
        target=len(responses),
        test=0,
        lengths=Lengths(max(0, whole - response), response, max(len(row.input_ids) for row in train)),
        answer_tokens=1,
        targets=len(targets),
    )
    target_tokens = sum(len(row.input_ids) for row in responses)
    asked = replace(choices, targets_at_once=len(targets))
    plan = AttributionPlan(Architecture(config), work, machine, asked, target_tokens=target_tokens)
    plan, changes = fitted(plan)  # type: ignore[assignment]
    if plan.choices.targets_at_once < len(targets):
        memory = f"{machine.memory_bytes / 2**30:.0f} GiB"
        raise ParameterError(
            "memory of the device", memory, "larger, or the targets fewer: all are scored at once"
        )
    return AttributionCost(model, plan, changes)


def machine_for(device: str) -> Machine:
    """Return the machine of a device: this one's CPU with the threads that are set, or its first GPU.

    A GPU's memory is its own; its speed is the data sheet's of the nearest kind, which the plan says.
    """
    if not device.startswith("cuda"):
        threads = torch.get_num_threads()
        found = this_machine(threads)
        return replace(found, memory_bytes=psutil.virtual_memory().total)
    properties = torch.cuda.get_device_properties(device)
    kind = next((kind for kind in ("h200", "a100") if kind in properties.name.lower()), "h100")
    found = gpu_machine(kind, 1)
    name = (
        properties.name if kind in properties.name.lower() else f"{properties.name}, timed as an {found.name}"
    )
    return replace(found, name=name, memory_bytes=properties.total_memory)
