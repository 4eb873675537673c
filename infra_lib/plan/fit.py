"""Make a plan fit a machine: what to give up, in which order, and what would hold the rest."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from infra_lib.errors import ParameterError
from infra_lib.plan.estimate import Plan, Step
from infra_lib.plan.hardware import gib


def fitted(plan: Plan) -> tuple[Plan, list[str]]:
    """Return a plan whose every step fits its machine, and what had to be changed for it.

    Tried in this order: fewer tokens a batch; one target at a time; one example at a time in
    fine-tuning; gradient checkpointing; sharding over the devices; adapters instead of all weights. Every
    change names the study's parameter and its value in brackets.

    Raises
    ------
    ParameterError
        Naming the step that needs most when everything has been given up, and what would hold it: a
        device with so much memory holds all steps.
    """
    changes: list[str] = []
    settings = plan.choices.finetune
    if settings.fsdp and plan.machine.devices == 1:
        # Training refuses it, and a frozen base takes twice as much there.
        changes.append(_noted("fine-tuning without sharding, for which there is one device", fsdp=False))
        plan = replace(plan, choices=replace(plan.choices, finetune=replace(settings, fsdp=False)))
    while over := [step for step in plan.steps() if step.peak_bytes > plan.machine.memory_bytes]:
        change = next(filter(None, (_next_change(plan, step) for step in over)), None)
        if change is None:
            memory = f"{plan.machine.memory_bytes / 2**30:.0f} GiB"
            name = "--gpu-memory" if plan.machine.is_gpu else "memory of the device"
            most = max(over, key=lambda step: step.peak_bytes)
            raise ParameterError(name, memory, _what_would(plan, most))
        words, plan = change
        changes.append(words)
    return plan, changes


def _next_change(plan: Plan, step: Step) -> tuple[str, Plan] | None:
    """Return the next thing to give up for a step that does not fit, in words, and the plan without it."""
    now, settings = plan.choices, plan.choices.finetune

    def changed(words: str, **values: Any) -> tuple[str, Plan]:
        return _noted(words, **values), replace(plan, choices=replace(now, **values))

    def trained(words: str, **values: Any) -> tuple[str, Plan]:
        choices = replace(now, finetune=replace(settings, **values))
        return _noted(words, **values), replace(plan, choices=choices)

    longest = plan.work.lengths.longest
    if step.what in ("fit factors", "directions", "score", "score positions", "refine", "sweep"):
        if now.batch_tokens > longest:
            less = max(longest, now.batch_tokens // 2)
            return changed(
                f"attribution with {less} tokens a batch, not {now.batch_tokens}", batch_tokens=less
            )
        if step.what in ("fit factors", "sweep") and now.factor_bytes > 2**30:
            less = now.factor_bytes // 2
            return changed(f"factors within {gib(less)}, in more parts", factor_bytes=less)
        if step.notebook == "08_explorer" and now.explorer_directions > 1:
            return changed("the explorer's directions one at a time", explorer_directions=1)
        # Notebook 07 scores all targets at once.
        if step.what == "score" and step.notebook != "07_method" and now.targets_at_once > 1:
            return changed("scores of one target at a time", targets_at_once=1)
    if step.what == "fine-tune":
        devices = plan.machine.devices
        most = max(1, settings.batch_size // devices)
        if settings.accumulation(devices) < most:
            return trained("fine-tuning of one example at a time", gradient_accumulation=most)
        if not settings.gradient_checkpointing and plan.architecture.checkpointable:
            return trained("gradient checkpointing", gradient_checkpointing=True)
        if not settings.fsdp and devices > 1:
            return trained(f"sharding over {devices} devices", fsdp=True)
        if not settings.lora_rank:
            return trained("LoRA of rank 16 instead of all weights", lora_rank=16)
    return None


def _noted(words: str, **values: Any) -> str:
    """Return what is given up in words, with the study's parameter and its value in brackets."""
    ((name, value),) = values.items()
    if name == "factor_bytes":
        name, value = "factor_gib", f"{value / 2**30:g}"
    return f"{words} ({name}: {str(value).lower()})"


def _what_would(plan: Plan, step: Step) -> str:
    """Return what a step needs and what would hold it, as the end of "it must be …"."""
    # Rounded up, so that what is named does hold it.
    quarters = math.ceil(4 * step.peak_bytes / 2**30)
    size = f"{quarters / 4:g} GiB" if quarters > 4 else f"{math.ceil(step.peak_bytes / 2**20)} MiB"
    text = f"{size} or more for {step.notebook}, {step.what}"
    if step.what == "fine-tune" and plan.machine.is_gpu:
        return f"{text}; with more devices each holds less (--gpus)"
    if step.notebook == "07_method":
        return f"{text}; or leave that notebook out (method_examples: 0)"
    lengths = plan.work.lengths.longest
    return f"{text}; sequences cut shorter than {lengths} tokens (max_tokens) or a smaller model need less"
