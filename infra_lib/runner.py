"""Run one notebook: convert it, give it its parameters, execute it, keep what came out.

What a stage depends on is written down beside its results: parameters, the notebook's
program, the library's modules behind it, input files and the data of earlier stages. A
stage whose record still holds is reused; everything else runs. Snakemake calls this
module stage by stage; it can be called alone as well.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra_lib.closure import LIBRARY, imported, module_files, program_digest, source_digest
from infra_lib.errors import InfraError
from infra_lib.files import digest_of, file_digest, replacing, write_json
from infra_lib.provenance import versions
from infra_lib.stage import (
    ROOT_VARIABLE,
    STAGES,
    damaged_files,
    data_digest,
    read_provenance,
    stage_folder,
)
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


def why_stale(root: Path, stage: str, study: Study) -> list[str]:
    """Return why a stage must run, one reason a line; empty where its results can be reused."""
    folder = stage_folder(study.study, stage, root)
    record = read_provenance(folder)
    try:
        kept = json.loads((folder / "depends.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ["it has not run"]
    if record is None or not (folder / "notebook.ipynb").is_file():
        return ["it has not run"]
    if damaged := damaged_files(folder, record):
        return [f"{damaged[0]} is missing or changed since it was written"]
    return differences(kept, dependencies(root, stage, study))


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
    write_json(folder / "depends.json", depends)
    return True


def _execute(root: Path, stage: str, study: Study, *, progress: bool) -> Path:
    """Execute a notebook with papermill and return the executed copy."""
    import jupytext
    import papermill
    from papermill.exceptions import PapermillExecutionError

    values = study.model_dump()
    parameters = {name: values[name] for name in declared_parameters(root, stage)}
    work = stage_folder(study.study, "work", root)
    work.mkdir(parents=True, exist_ok=True)
    source, executed = work / f"{stage}.source.ipynb", work / f"{stage}.ipynb"
    jupytext.write(read_notebook(root, stage), source, fmt="ipynb")
    with _environment(root):
        try:
            papermill.execute_notebook(
                str(source),
                str(executed),
                parameters=parameters,
                kernel_name=_kernel(root),
                language="python",
                cwd=str(root),
                progress_bar=False,
                stdout_file=sys.stdout if progress else None,
                stderr_file=sys.stderr if progress else None,
            )
        except PapermillExecutionError as error:
            raise NotebookFailed(
                f"{stage} failed: {error.ename}: {error.evalue}\nThe executed notebook is kept in {executed}"
            ) from None
        finally:
            source.unlink(missing_ok=True)
    return executed


class _environment:
    """Set the variables that a kernel inherits, and take them back."""

    def __init__(self, root: Path) -> None:
        self._values = {
            ROOT_VARIABLE: str(root),
            "JUPYTER_PATH": str(root / "_build" / "jupyter"),
            "PYTHONHASHSEED": "0",
            "TOKENIZERS_PARALLELISM": "false",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "MPLBACKEND": "agg",
            "PYTHONWARNINGS": "ignore:IProgress",
        }

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._values}
        os.environ.update(self._values)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _kernel(root: Path) -> str:
    """Describe a kernel that is this very interpreter, whatever kernels the user has installed."""
    folder = root / "_build" / "jupyter" / "kernels" / "infra"
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_json(folder / "kernel.json", {"argv": command, "display_name": "Python 3", "language": "python"})
    return "infra"
