"""Run one notebook: convert it, give it its parameters, execute it, keep what came out.

What a stage depends on is written down beside its results: parameters, the notebook's
program, the library's modules behind it, input files and the data of earlier stages. A
stage whose record still holds is reused; everything else runs. Snakemake calls this
module stage by stage; it can be called alone as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra_lib.checksums import damage
from infra_lib.closure import LIBRARY, imported, module_files, program_digest, source_digest
from infra_lib.errors import DataError, InfraError
from infra_lib.files import digest_of, file_digest, read_sealed, replacing, write_sealed
from infra_lib.kernel import describe_kernel, kernel_environment
from infra_lib.layout import (
    STAGES,
    damaged_files,
    data_digest,
    read_provenance,
    stage_folder,
)
from infra_lib.provenance import versions
from infra_lib.study import WITHOUT_EFFECT, Study


class NotebookFailed(InfraError):
    """A notebook raised; the message says where the executed copy lies."""


def notebook_path(root: Path, stage: str) -> Path:
    """Return the source of a stage's notebook."""
    return root / "notebooks" / f"{stage}.py"


def read_notebook(root: Path, stage: str) -> Any:
    """Return a stage's notebook, converted from py:percent."""
    import jupytext

    return jupytext.read(notebook_path(root, stage))


def declared_parameters(root: Path, stage: str) -> dict[str, Any]:
    """Return the parameters that a notebook declares, with their defaults, without running anything.

    Raises
    ------
    InfraError
        For a cell of parameters that holds anything else than ``name: type = value`` with plain values.
    """
    cell = parameters_cell(read_notebook(root, stage))
    found: dict[str, Any] = {}
    try:
        for statement in ast.parse(cell).body:
            if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
                raise ValueError(f"line {statement.lineno}")
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if not isinstance(target, ast.Name):
                    raise ValueError(f"line {statement.lineno}")
                found[target.id] = ast.literal_eval(statement.value)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        problem = f"the parameters cell of {stage} holds more than names and plain values ({error})"
        raise InfraError(problem) from None
    return {name: found[name] for name in Study.model_fields if name in found}


def parameters_cell(notebook: Any) -> str:
    """Return the source of the cell that is tagged ``parameters``."""
    cells = [c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InfraError(f"a notebook has {len(cells)} cells tagged parameters; it must have one")
    return cells[0]


def dependencies(root: Path, stage: str, study: Study) -> dict[str, Any]:
    """Return all that a stage's results depend on, by kind, as digests and values."""
    source = notebook_path(root, stage).read_text(encoding="utf-8")
    values = study.model_dump()
    names = set(declared_parameters(root, stage)) - WITHOUT_EFFECT
    modules = module_files(imported(source))
    upstream = {}
    for needed in STAGES[stage]:
        record = read_provenance(stage_folder(study.study, needed, root))
        upstream[needed] = data_digest(record) if record else "has not run"
    return {
        "parameters": {name: values[name] for name in sorted(names)},
        "notebook": source_digest(source),
        "prose": digest_of(source),
        "modules": {f"infra_lib/{path.relative_to(LIBRARY)}": program_digest(path) for path in modules},
        "inputs": {
            str(path.relative_to(root)): file_digest(path) for path in input_files(root, stage, study)
        },
        "earlier stages": upstream,
        "versions": versions(),
    }


def input_files(root: Path, stage: str, study: Study) -> list[Path]:
    """Return the files of the project that a stage reads besides earlier stages' results."""
    if stage == "02_base_model" and not study.retrain_base:
        return sorted((root / study.base_folder).glob("seed*/*.*"))
    if stage == "06_summary":
        return sorted((root / "infra_lib").glob("paper*.yaml"))
    return []


def stage_damage(folder: Path) -> str | None:
    """Return what is torn, changed or missing in a stage's results, in words; None where all is whole.

    A stage whose notebook was executed by hand has no record of what it depended on, and is whole too.
    """
    record_path, depends_path = folder / "provenance.json", folder / "depends.json"
    if not record_path.exists() or not (folder / "notebook.ipynb").exists():
        return "it has not run"
    try:
        damaged = damaged_files(folder, read_sealed(record_path))
        if depends_path.exists():
            damaged += damage(folder, {"notebook.ipynb": str(read_sealed(depends_path).get("executed"))})
    except DataError as error:
        return f"{error.path.name} {error.problem}"
    except OSError as error:
        return f"{Path(str(error.filename)).name} cannot be read ({error.strerror})"
    return f"{damaged[0]} is missing or changed since it was written" if damaged else None


def why_stale(root: Path, stage: str, study: Study) -> list[str]:
    """Return why a stage must run, one reason a line; empty where its results can be reused."""
    folder = stage_folder(study.study, stage, root)
    if problem := stage_damage(folder):
        return [problem]
    if not (folder / "depends.json").exists():
        return ["its notebook was executed by hand, or was cut off at its end"]
    return differences(read_sealed(folder / "depends.json"), dependencies(root, stage, study))


def differences(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two records of dependencies, in words."""
    reasons = []
    for kind, value in now.items():
        before = kept.get(kind)
        if before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            for name in sorted(set(value) | set(before)):
                old, new = before.get(name), value.get(name)
                if old != new:
                    shown = f" ({old} → {new})" if kind in ("parameters", "versions") else ""
                    reasons.append(f"{kind}: {name} changed{shown}")
        else:
            reasons.append(f"the {kind} changed")
    return reasons


def run_stage(root: Path, stage: str, study: Study, *, force: bool = False, progress: bool = True) -> bool:
    """Run a stage unless its results can be reused; return whether it ran.

    Raises
    ------
    NotebookFailed
        Naming the error and the executed notebook that was kept.
    """
    reasons = ["--force was given"] if force else why_stale(root, stage, study)
    if not reasons:
        print(f"reused  {stage}: nothing that it depends on has changed", flush=True)
        return False
    print(f"running {stage}: {'; '.join(reasons[:4])}", flush=True)
    depends = dependencies(root, stage, study)
    executed = _execute(root, stage, study, progress=progress)
    folder = stage_folder(study.study, stage, root)
    with replacing(folder / "notebook.ipynb") as temporary:
        temporary.write_bytes(executed.read_bytes())
    executed.unlink()
    write_sealed(folder / "depends.json", {**depends, "executed": file_digest(folder / "notebook.ipynb")})
    return True


def _execute(root: Path, stage: str, study: Study, *, progress: bool) -> Path:
    """Execute a stage's notebook and return the executed copy."""
    values = study.model_dump()
    parameters = {name: values[name] for name in declared_parameters(root, stage)}
    work = stage_folder(study.study, "work", root)
    return execute(root, stage, parameters, work, folder=root, progress=progress)


def execute(
    root: Path,
    stage: str,
    parameters: Mapping[str, Any],
    work: Path,
    *,
    folder: Path,
    progress: bool,
    hint: str = "training runs and factors that finished are kept",
) -> Path:
    """Execute a notebook with papermill and return the executed copy, which lies in ``work``.

    Parameters
    ----------
    stage
        Name of a file of ``notebooks/``.
    folder
        Where its kernel starts.
    hint
        What is kept where the kernel is killed from outside.

    Raises
    ------
    NotebookFailed
        Naming the error and the executed notebook that was kept.
    """
    import jupytext
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    work.mkdir(parents=True, exist_ok=True)
    source, executed = work / f"{stage}.source.ipynb", work / f"{stage}.ipynb"
    jupytext.write(read_notebook(root, stage), source, fmt="ipynb")
    with kernel_environment(root):
        try:
            papermill.execute_notebook(
                str(source),
                str(executed),
                parameters=dict(parameters),
                kernel_name=describe_kernel(root),
                language="python",
                cwd=str(folder),
                progress_bar=False,
                stdout_file=sys.stdout if progress else None,
                stderr_file=sys.stderr if progress else None,
            )
        except PapermillExecutionError as error:
            raise NotebookFailed(
                f"{stage} failed: {error.ename}: {error.evalue}\nThe executed notebook is kept in {executed}"
            ) from None
        except DeadKernelError:
            raise NotebookFailed(
                f"{stage} failed: its kernel was killed from outside, often for want of memory; {hint}"
            ) from None
        finally:
            source.unlink(missing_ok=True)
    return executed
