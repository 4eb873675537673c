"""The plan of a study, as text for the command line and as tables for the book."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoConfig

from infra_lib.errors import ModelError
from infra_lib.layout import STAGES
from infra_lib.plan.estimate import Choices, Plan, Step
from infra_lib.plan.fit import fitted
from infra_lib.plan.hardware import Machine, count, duration, gib
from infra_lib.plan.passes import Architecture, Size
from infra_lib.plan.workload import Lengths, Workload, expected_lengths, workload
from infra_lib.pretrain import architecture
from infra_lib.pretrained import readable_config
from infra_lib.sources.small_world import train_tokenizer
from infra_lib.study import Study

ARCHITECTURES = Path(__file__).with_name("architectures")
"""Configurations of published models: shapes alone, so that they can be planned without the hub."""

PUBLISHERS = frozenset({"", "qwen", "meta-llama", "huggingfacetb"})
"""Owners on the hub whose models these are; a name alone does too."""

KERNEL_BOUND = 500_000_000
"""Parameters below which a GPU waits for its queue; records of larger models show by how much."""


@dataclass(frozen=True)
class StudyPlan:
    """What a study costs on a machine.

    Attributes
    ----------
    model
        Name of the model.
    size, steps
        Its sizes, and every step's estimate.
    changes
        What was given up so that every step fits.
    without
        Of each notebook that no step belongs to: what it takes, in words.
    """

    study: str
    model: str
    machine: Machine
    size: Size
    steps: list[Step]
    changes: list[str]
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def peak_bytes(self) -> int:
        """Most memory that any step takes on a device."""
        return max(step.peak_bytes for step in self.steps)

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def disk_bytes(self) -> int:
        """Disk that results take."""
        return sum(step.disk_bytes for step in self.steps)

    def frame(self) -> pd.DataFrame:
        """Return one row per step: notebook, step, peak_bytes, seconds, disk_bytes, note."""
        return pd.DataFrame([vars(step) for step in self.steps])

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        size = self.size
        found = [
            f"study {self.study}: {self.model} on {self.machine.name}",
            f"  {count(size.parameters)} parameters, {count(size.attributed)} in {size.layers} MLP layers"
            f"; factors {gib(size.factor_bytes)} on disk",
            f"  {'notebook':21} {'step':12} {'memory':>10} {'time':>9} {'disk':>10}  how",
        ]
        rows = {
            notebook: [f"  {notebook:21} {'–':12} {'':>10} {'':>9} {'':>10}  {words}"]
            for notebook, words in self.without.items()
        }
        for s in self.steps:
            rows.setdefault(s.notebook, []).append(
                f"  {s.notebook:21} {s.what:12} {gib(s.peak_bytes):>10} {duration(s.seconds):>9}"
                f" {gib(s.disk_bytes) if s.disk_bytes else '':>10}  {s.note}"
            )
        found += [line for notebook in sorted(rows) for line in rows[notebook]]
        found.append(
            f"  {'together':34} {gib(self.peak_bytes):>10} {duration(self.seconds):>9}"
            f" {gib(self.disk_bytes):>10}"
        )
        found += [f"  so that it fits: {change}" for change in self.changes]
        if self.changes:
            found.append("  a run takes the study's own values: give it those in brackets (-p name=value)")
        found.append(
            f"  memory is per device; time supposes {self.machine.utilisation:.0%} of the device's peak"
            " (our choice)"
        )
        if self.machine.is_gpu and size.parameters < KERNEL_BOUND:
            found.append(
                "  a model this small is bound on a GPU by the number of its kernels, not by arithmetic:"
                " expect several times as long, and more for training and answers"
            )
        return found


def plan_study(study: Study, root: Path, machine: Machine) -> StudyPlan:
    """Return the plan of a study, from its model's configuration alone.

    Raises
    ------
    ParameterError
        Where a step cannot fit whatever is given up, with what would hold it; or where the lengths of
        the data are neither at hand nor expected.
    ModelError
        For a configuration that cannot be found.
    """
    work = workload(study, expected_lengths(study, root))
    name, config = find_config(study, root)
    choices = Choices(
        attribution_dtype=study.attribution_dtype(),
        batch_tokens=study.batch_tokens,
        targets_at_once=study.targets_at_once,
        explorer_directions=study.explorer_directions,
        finetune=study.finetune_config(),
        factor_bytes=int(study.factor_gib * 2**30),
        engine=study.engine,
    )
    plan = plan_model(name, config, work, machine, choices, study=study.study)
    planned = {step.notebook for step in plan.steps}
    without = {stage: without_passes(stage, study) for stage in STAGES if stage not in planned}
    return replace(plan, without=without)


def without_passes(notebook: str, study: Study) -> str:
    """Return what a notebook without a step in the plan takes, or why it does nothing."""
    switch = {"07_method": "method_examples", "09_validation": "validation_subsets"}.get(notebook)
    if switch and not getattr(study, switch):
        return f"left out ({switch}: 0)"
    if notebook == "05_reweighting_arms" and set(study.arms) == {"uniform"}:
        return "nothing is trained: uniform is the only arm (arms)"
    return {
        "01_data": "minutes on the CPU, and the download of what is not in the cache: no model passes",
        "02_base_model": "the time of copying or downloading the weights: no model passes",
        "06_summary": "seconds on the CPU: tables and figures of what the others found",
    }.get(notebook, "not estimated")


def plan_model(
    name: str, config: Any, work: Workload, machine: Machine, choices: Choices, *, study: str = ""
) -> StudyPlan:
    """Return the plan of a model's configuration and a workload."""
    architecture = Architecture(config)
    plan, changes = fitted(Plan(architecture, work, machine, choices))
    return StudyPlan(study, name, machine, architecture.size, plan.steps(), changes)


def find_config(study: Study, root: Path) -> tuple[str, Any]:
    """Return a study's model: its name, and its configuration from a folder, from here, or from the hub.

    Base models that the study trains itself have the shape that it gives them.

    Raises
    ------
    ModelError
        Where it is in none of them.
    """
    if study.retrain_base and not study.base_model:
        return f"base models of {study.base_folder}", architecture(study.pretrain_config(), train_tokenizer())
    source = study.base_model or f"{study.base_folder}/seed{study.base_seeds[0]}"
    if (root / source / "config.json").is_file():
        return source, readable_config(root / source)
    if known := _known(source):
        return source, known_config(known)
    try:
        return source, readable_config(source)
    except ModelError as error:
        raise ModelError(f"{error}; known without the hub: {', '.join(known_names())}") from None


def _known(source: str) -> str | None:
    """Return which configuration that comes with the project is a model's: by its name, its owner's included.

    The packaged model's folder counts before it is made; somebody else's model of the same name may be
    another model.
    """
    if source == "_build/models/smollm2":
        return "smollm2-135m"
    owner, _, name = source.lower().rpartition("/")
    name = name.removesuffix("-instruct").removeprefix("meta-")
    return name if owner in PUBLISHERS and name in known_names() else None


def known_names() -> list[str]:
    """Return the names of the configurations that come with the project."""
    return sorted(path.stem for path in ARCHITECTURES.glob("*.json"))


def known_config(name: str) -> Any:
    """Return a configuration that comes with the project."""
    values = json.loads((ARCHITECTURES / f"{name}.json").read_text(encoding="utf-8"))
    return AutoConfig.for_model(**values)


def by_notebook(steps: list[Step]) -> dict[str, dict[str, float]]:
    """Return each notebook's peak on a device, and the sums of its steps' time and disk."""
    found: dict[str, dict[str, float]] = {}
    for step in steps:
        row = found.setdefault(step.notebook, {"peak_bytes": 0, "seconds": 0.0, "disk_bytes": 0})
        row["peak_bytes"] = max(row["peak_bytes"], step.peak_bytes)
        row["seconds"] += step.seconds
        row["disk_bytes"] += step.disk_bytes
    return found


def comparison(machines: list[Machine], names: list[str] | None = None, *, lengths: Lengths) -> pd.DataFrame:
    """Return what a study of published models costs on several machines: one run of each of four arms.

    Returns
    -------
    pandas.DataFrame
        model, machine, parameters, factor_bytes, parts (partitions of the fit), peak_bytes, seconds,
        disk_bytes, notebooks (name to peak_bytes, seconds, disk_bytes), changes, refused; one row per pair.
    """
    from infra_lib.errors import ParameterError
    from infra_lib.finetune.config import FinetuneConfig

    work = Workload(
        train=17_000,
        target=800,
        test=1_500,
        lengths=lengths,
        answer_tokens=lengths.response,
        epochs=3,
        arm_runs=3,
    )
    settings = FinetuneConfig(epochs=3, batch_size=96, learning_rate=1e-5, precision="bfloat16")
    choices = Choices(attribution_dtype=torch.bfloat16, finetune=settings)
    rows = []
    for name in names or known_names():
        architecture = Architecture(known_config(name))
        for machine in machines:
            row: dict[str, Any] = {
                "model": name,
                "machine": machine.name,
                "parameters": architecture.size.parameters,
            }
            row["factor_bytes"] = architecture.size.factor_bytes
            try:
                plan, changes = fitted(Plan(architecture, work, machine, choices))
                steps = plan.steps()
                row["peak_bytes"] = max(step.peak_bytes for step in steps)
                row["seconds"] = sum(step.seconds for step in steps)
                row["disk_bytes"] = sum(step.disk_bytes for step in steps)
                row["parts"] = max(step.parts for step in steps)
                row["notebooks"] = by_notebook(steps)
                row["changes"], row["refused"] = "; ".join(changes), ""
            except ParameterError as error:
                row["changes"], row["refused"] = "", error.valid
            rows.append(row)
    return pd.DataFrame(rows)
