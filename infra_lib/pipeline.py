"""Order, resume, gather: from a study's name to a book.

Snakemake decides what runs and in which order (``workflow/Snakefile``); each of its rules
calls :mod:`infra_lib.runner`, which looks at content where Snakemake looks at times. The
book is then built from the results of one study.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from infra_lib.checksums import write_manifest
from infra_lib.closure import imported, module_files
from infra_lib.errors import InfraError, ParameterError
from infra_lib.evaluate.sandbox import resolve
from infra_lib.files import (
    read_sealed,
    recover_folder,
    remove_leftovers,
    replace_folder,
    write_sealed,
    write_text,
)
from infra_lib.layout import STAGES, read_provenance, stage_folder
from infra_lib.plan.hardware import Machine, gpu_machine, this_machine
from infra_lib.processes import FORCE_VARIABLE, RUN_VARIABLE, holding, terminate_as_interrupt
from infra_lib.published import check_fragments, published_notebook
from infra_lib.runner import declared_parameters, notebook_path, stage_damage, why_stale
from infra_lib.study import Study, make_study, unknown


def find_stages(names: Sequence[str]) -> list[str]:
    """Return stages by number or name (``03``, ``03_finetune_evaluate``); all of them for no name."""
    found = []
    for name in names:
        matches = [stage for stage in STAGES if stage == name or stage.split("_")[0] == name]
        if not matches:
            raise unknown("stage", name, list(STAGES))
        found += matches
    return found or list(STAGES)


def resolved_study(root: Path, name: str) -> Study:
    """Return the study as its run keeps it for the stages' rules."""
    return make_study(read_sealed(stage_folder(name, "study.json", root)))


@contextmanager
def locked(root: Path, study: Study) -> Iterator[None]:
    """Hold a study's lock, with its parameters kept for the rules and what a cut-off run left put in order.

    A second run of the same study is told so, and changes nothing of the first.

    Raises
    ------
    InfraError
        For a study that another process runs.
    ParameterError
        For a folder that cannot be written.
    """
    folder = stage_folder(study.study, ".", root).resolve()
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(holding(folder / ".lock", f"study {study.study}"))
            remove_leftovers(folder)
            for stage in STAGES:
                recover_folder(folder / stage)
            write_sealed(folder / "study.json", study.model_dump())
        except OSError as error:
            valid = f"one whose folder can be written ({folder}: {error.strerror})"
            raise ParameterError("study", study.study, valid) from None
        yield


def run(root: Path, study: Study, stages: Sequence[str], *, force: bool = False) -> int:
    """Let Snakemake run the stages and what they need; return its exit status.

    Snakemake goes by times and parameters; content has the last word: the stamp of a stage whose results
    no longer hold is taken away first, and the runner reuses those that still do.
    """
    check_machine(root, study, stages, force=force)
    stamps = {stage: stamp(root, study.study, stage) for stage in STAGES}
    for stage in STAGES:
        if why_stale(root, stage, study):
            stamps[stage].unlink(missing_ok=True)
        elif stamps[stage].exists() and lies_ahead(stamps[stage]):
            os.utime(stamps[stage])  # Snakemake refuses an output older than its inputs
    before = {stage: path.stat().st_mtime_ns for stage, path in stamps.items() if path.exists()}
    targets = [str(stamps[stage]) for stage in stages]
    command = _snakemake(root, study, targets, force=force)
    stage_folder(study.study, "work", root).mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, RUN_VARIABLE: str(os.getpid()), FORCE_VARIABLE: ""}
    if force:
        environment[FORCE_VARIABLE] = ",".join(stages)
    with terminate_as_interrupt():
        code = subprocess.run(command, check=False, env=environment).returncode
    asked = {*stages, *(needed for stage in stages for needed in STAGES[stage])}
    for stage in sorted(asked):
        if stage in before and stamps[stage].exists() and stamps[stage].stat().st_mtime_ns == before[stage]:
            print(f"reused  {stage}: nothing that it depends on has changed", flush=True)
    return code


def check_machine(root: Path, study: Study, stages: Sequence[str], *, force: bool = False) -> None:
    """Make sure, before long work, that what must run has its device, and a wall around what it grades.

    Raises
    ------
    ParameterError
        For a GPU that is not there.
    SandboxError
        Where there is no wall, with the one command to type.
    """
    asked = {*stages, *(needed for stage in stages for needed in STAGES[stage])}
    forced = stages if force else ()
    runs = [s for s in STAGES if s in asked and (s in forced or why_stale(root, s, study))]
    if study.device != "cpu" and any("device" in declared_parameters(root, stage) for stage in runs):
        from infra_lib.device import check_device

        check_device(study.device)
    if any("sandbox" in declared_parameters(root, stage) for stage in runs):
        resolve(study.sandbox)


def threads() -> int:
    """Return the threads of a stage: ``OMP_NUM_THREADS`` where it is set to a number, else one.

    Snakemake gives each job the threads of its rule in that very variable, whatever it was before.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(asked)) if asked.isdecimal() else 1


def processes(root: Path, study: Study, stage: str) -> int:
    """Return how many of the study's processes a stage takes, which says what may run beside it.

    All of them where it has the parameter, or where stages would share a device; else one. Stages that take
    all go first, so that the others are left for each other's company.
    """
    alone = study.device != "cpu" or "processes" in declared_parameters(root, stage)
    return study.processes if alone else 1


def _snakemake(root: Path, study: Study, targets: Sequence[str], *, force: bool) -> list[str]:
    options = {
        "--snakefile": [str(root / "workflow" / "Snakefile")],
        "--directory": [str(stage_folder(study.study, "work", root))],
        "--cores": [str(threads() * study.processes)],
        "--resources": [f"processes={study.processes}"],
        "--nolock": [],
        "--rerun-incomplete": [],
        # The default one writes files for a solver, which a full temporary folder fails.
        "--scheduler": ["greedy"],
        "--rerun-triggers": ["mtime", "params", "input"],
        "--quiet": ["all"],
        "--config": [f"root={root}", f"study={study.study}"],
    }
    forced = ["--forcerun", *targets] if force else []
    words = [word for option, values in options.items() for word in (option, *values)]
    return [sys.executable, "-m", "snakemake", *words, *forced, "--", *targets]


def last_log(root: Path, study: str) -> Path | None:
    """Return the log of Snakemake's last run, which says why it stopped where no notebook did."""
    logs = sorted(stage_folder(study, "work", root).glob(".snakemake/log/*.log"))
    return logs[-1] if logs else None


def stamp(root: Path, study: str, stage: str) -> Path:
    """Return the file whose time tells Snakemake that a stage has run."""
    return stage_folder(study, "work", root) / f"{stage}.done"


def lies_ahead(path: str | Path) -> bool:
    """Return whether a file is dated in the future, as after a clock was set back."""
    return Path(path).stat().st_mtime > time.time()


def rule_inputs(root: Path, study: Study, stage: str) -> list[str]:
    """Return the files whose change makes Snakemake look at a stage again.

    Content alone decides about a file dated in the future, which Snakemake would hold against any output.
    """
    source = notebook_path(root, stage)
    modules = module_files(imported(source.read_text(encoding="utf-8")))
    earlier = [stamp(root, study.study, needed) for needed in STAGES[stage]]
    dated = [path for path in (source, *modules) if not lies_ahead(path)]
    return [str(path) for path in (*dated, *earlier)]


def rule_parameters(root: Path, study: Study, stage: str) -> str:
    """Return the parameters that a stage declares, as text that Snakemake compares."""
    values = study.model_dump()
    return json.dumps({name: values[name] for name in declared_parameters(root, stage)}, sort_keys=True)


def status(root: Path, study: Study) -> list[tuple[str, str, str]]:
    """Return, per stage, its state, and when and how long it ran or why it must run."""
    rows = []
    for stage in STAGES:
        record = read_provenance(stage_folder(study.study, stage, root))
        reasons = why_stale(root, stage, study)
        if not reasons and record:
            rows.append(
                (stage, "done", f"{record['started'][:16].replace('T', ' ')}, {record['seconds']:.0f} s")
            )
        else:
            rows.append((stage, "to run", "; ".join(reasons[:3])))
    return rows


def machine_of(
    study: Study, *, gpus: int | None = None, memory: str | None = None, kind: str = "h100"
) -> Machine:
    """Return the machine to plan for: so many GPUs, or what the study's device says.

    Raises
    ------
    ParameterError
        For a negative number of GPUs, or a memory for none.
    """
    if gpus == 0 and memory is not None:
        raise ParameterError("--gpu-memory", memory, "left out with --gpus 0, which plans for the CPU")
    if gpus or memory is not None or (gpus is None and study.device.startswith("cuda")):
        return gpu_machine(kind, study.devices_per_run if gpus is None else gpus, memory)
    return this_machine(study.processes)


def dry_run(root: Path, study: Study) -> list[str]:
    """Return every step with its state, its inputs and its estimated cost, without running anything."""
    from infra_lib.plan.hardware import duration, gib
    from infra_lib.plan.report import plan_study, without_passes

    lines: list[str] = []
    try:
        plan = plan_study(study, root, machine_of(study))
        costs = {stage: [s for s in plan.steps if s.notebook == stage] for stage in STAGES}
        closing = plan.lines()
    except InfraError as error:
        costs, closing = {}, [f"no estimate: {error}"]
    for stage, state, note in status(root, study):
        lines.append(f"{stage:24} {state:7} {note}")
        inputs = [*STAGES[stage], *stage_sources(stage, study)]
        lines.append(f"{'':24} reads   {', '.join(inputs) or 'parameters alone'}")
        if not costs.get(stage):
            lines.append(f"{'':24} {without_passes(stage, study)}")
        for step in costs.get(stage, []):
            lines.append(
                f"{'':24} {step.what}: {duration(step.seconds)}, {gib(step.peak_bytes)} a device; {step.note}"
            )
    return [*lines, *closing]


def stage_sources(stage: str, study: Study) -> list[str]:
    """Return the data sets and models that a stage reads from outside the study."""
    if stage == "01_data":
        from infra_lib.study_data import sources_of

        return list(dict.fromkeys(name for names in sources_of(study).values() for name in names))
    if stage == "02_base_model":
        return [study.base_model or study.base_folder]
    return []


def clean(root: Path, study: str | None) -> list[Path]:
    """Remove a study's results (or all studies', and the book's copies); return what was removed."""
    folders = [stage_folder(study, ".", root)] if study else [root / "_build", root / "book" / "results"]
    removed = [folder.resolve() for folder in folders if folder.exists()]
    for folder in removed:
        shutil.rmtree(folder)
    return removed


def summary(root: Path, study: str) -> list[str]:
    """Return the lines that a run's stages left for its reader, and the times."""
    lines, times = [], []
    for stage in STAGES:
        record = read_provenance(stage_folder(study, stage, root))
        if record:
            lines += record["summary"]
            times.append(f"{stage.split('_')[0]} {record['seconds']:.0f} s")
    return [*lines, f"time of each notebook: {', '.join(times)}"]


# --- The book ----------------------------------------------------------------------------


def gather(root: Path, study: str) -> Path:
    """Copy a study's notebooks, figures and tables to where the book's pages find them.

    Raises
    ------
    InfraError
        For a stage that has not run, a notebook that holds an error, or results with markup that would
        run or load something on a page.
    """
    from infra_lib.pages import write_generated

    new = root / "book" / ".results.part"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for stage in STAGES:
        folder = stage_folder(study, stage, root)
        if problem := stage_damage(folder):
            raise InfraError(f"the book needs {stage}: {problem}; `infra run --study {study}`")
        write_text(new / f"{stage}.ipynb", published_notebook(root, stage, folder / "notebook.ipynb"))
        for kind in ("figures", "tables", "data"):
            if (folder / kind).is_dir():
                shutil.copytree(folder / kind, new / kind / stage)
        shutil.copy2(folder / "provenance.json", new / f"{stage}.provenance.json")
        (new / "source").mkdir(exist_ok=True)
        shutil.copy2(notebook_path(root, stage), new / "source")
    write_generated(root, study, new)
    check_fragments(new)
    write_manifest(new)
    replace_folder(new, root / "book" / "results")
    return root / "book" / "results"


def build_book(root: Path, study: str) -> Path:
    """Gather a study's results and build the book with warnings fatal; return its first page."""
    gather(root, study)
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        "book",
        "--config",
        "_config.yml",
        "--path-output",
        ".",
        "--all",
        "-W",
        "-n",
        "--keep-going",
        "--quiet",
    ]
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    if done.returncode:
        raise InfraError(f"the book did not build:\n{(done.stderr or done.stdout)[-4000:]}")
    write_manifest(root / "_build" / "html")
    return root / "_build" / "html" / "index.html"
