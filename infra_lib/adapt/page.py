"""``infra adapt``: say what it costs, run the notebook, build the page.

In the folder of results::

    scores/          tables of scores, provenance, factors (infra_lib.adapt.scores)
    figures/         of the page, each as SVG, PNG and CSV
    notebook.ipynb   as it was executed
    source/          what the page is built from
    html/            the page
    page.json        what the page depends on
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from infra_lib.adapt.parameters import AdaptParameters, with_batch
from infra_lib.adapt.scores import dependencies, is_kept, read
from infra_lib.checksums import damage, read_manifest, write_manifest
from infra_lib.closure import imported, module_files, program_digest
from infra_lib.errors import DataError, InfraError
from infra_lib.files import digest_of, file_digest, read_sealed, replace_folder, write_sealed, write_text
from infra_lib.plain_yaml import load as load_yaml
from infra_lib.plan.attribution import AttributionCost, machine_for, plan_attribution
from infra_lib.plan.estimate import Choices
from infra_lib.processes import holding
from infra_lib.published import published_notebook
from infra_lib.runner import execute

NOTEBOOK = "adapt"
PAGE = "page.json"


def adapt(
    root: Path, parameters: AdaptParameters, say: Callable[[str], None], *, plan_only: bool = False
) -> Path:
    """Make the page of a model and a folder of examples; return it.

    Parameters
    ----------
    root
        The project, whose notebook and look the page has.
    say
        Takes one line of text at a time.
    plan_only
        Check and say what it would cost, and do no more.

    Raises
    ------
    ParameterError, DataError, ModelError
        Before anything heavy runs.
    InfraError
        Where the notebook or the page fails, with what is kept.
    """
    parameters.check()
    page = Path(parameters.out) / "html" / "index.html"
    depends = _page_depends(root, parameters)
    if not plan_only and _is_current(Path(parameters.out), depends):
        say("nothing that the page depends on has changed")
        return page
    cost = planned(parameters)
    for line in cost.lines():
        say(line)
    if plan_only:
        return page
    if is_kept(parameters, dependencies(parameters)):
        say("the scores are kept from an earlier run")
    parameters = with_batch(parameters, cost.plan.choices.batch_tokens)
    out = Path(parameters.out)
    with holding(out / ".lock", f"the page in {out}"):
        executed = _run(root, parameters)
        os.replace(executed, out / "notebook.ipynb")
        build(root, parameters)
        write_sealed(out / PAGE, {"depends": depends})
    return page


def planned(parameters: AdaptParameters) -> AttributionCost:
    """Return what the attribution costs, from token counts and the model's configuration.

    Raises
    ------
    ParameterError, DataError, ModelError
        For input that cannot be used, or what cannot fit.
    """
    found = read(parameters)
    choices = Choices(
        batch_tokens=parameters.batch_tokens,
        factor_bytes=parameters.options().memory_bytes,
        attribution_dtype=getattr(torch, parameters.dtype),
    )
    inputs, machine = found.inputs, machine_for(parameters.device)
    return plan_attribution(
        parameters.model, found.config.get_text_config(), inputs.encoded, inputs.targets, machine, choices
    )


def _run(root: Path, parameters: AdaptParameters) -> Path:
    values = {**parameters.effective, "out": parameters.out}
    hint = f"what is finished in {parameters.out} is kept, and the same command goes on"
    work = Path(parameters.out).resolve() / "work"
    return execute(root, NOTEBOOK, values, work, folder=Path.cwd(), progress=True, hint=hint)


# --- What the page depends on -------------------------------------------------------------


def _page_depends(root: Path, parameters: AdaptParameters) -> dict[str, Any]:
    notebook = root / "notebooks" / f"{NOTEBOOK}.py"
    modules = module_files(imported(notebook.read_text(encoding="utf-8")))
    look = [root / "_config.yml", *sorted((root / "book" / "_static").iterdir())]
    return {
        "scores": dependencies(parameters),
        "parameters": digest_of(parameters.effective),
        "notebook": file_digest(notebook),
        "modules": digest_of([program_digest(path) for path in modules]),
        "look": digest_of([file_digest(path) for path in look]),
    }


def _is_current(out: Path, depends: dict[str, Any]) -> bool:
    try:
        kept = read_sealed(out / PAGE)["depends"]
        return kept == depends and not damage(out / "html", read_manifest(out / "html"))
    except (OSError, DataError):
        return False


# --- The page -----------------------------------------------------------------------------


def build(root: Path, parameters: AdaptParameters) -> None:
    """Build the page with the book's look from the executed notebook; warnings are errors.

    Raises
    ------
    InfraError
        With the end of what jupyter-book said.
    """
    out = Path(parameters.out).resolve()
    source = out / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for name in ("_static", "_ext"):
        shutil.copytree(root / "book" / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    page = published_notebook(root, NOTEBOOK, out / "notebook.ipynb")
    write_text(source / "index.ipynb", page.replace(f"{Path.cwd()}/", ""))
    write_text(source / "_toc.yml", "format: jb-book\nroot: index\n")
    write_text(source / "_config.yml", configuration(root, parameters.model))
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "."]
    command += ["--path-output", "built", "--all", "-W", "-n", "--keep-going", "--quiet"]
    done = subprocess.run(command, cwd=source, check=False, capture_output=True, text=True)
    if done.returncode:
        raise InfraError(f"the page did not build:\n{(done.stderr or done.stdout)[-3000:]}")
    html = source / "built" / "_build" / "html"
    write_manifest(html)
    replace_folder(html, out / "html")
    shutil.rmtree(source / "built")


def configuration(root: Path, model: str) -> str:
    """Return the page's configuration: the book's, without what belongs to the book alone."""
    import yaml

    config = load_yaml((root / "_config.yml").read_text(encoding="utf-8"))
    config["title"] = "Training examples by influence"
    config.pop("bibtex_bibfiles", None)
    config["logo"] = "_static/logo.svg"
    config["html"]["extra_footer"] = (
        "<p>Made by infra adapt; numbers are read from the scores beside this page.</p>"
    )
    extensions = config["sphinx"]["local_extensions"]
    config["sphinx"]["local_extensions"] = {name: "_ext" for name in extensions if name != "intact"}
    config["sphinx"]["config"].pop("bibtex_reference_style", None)
    return str(yaml.safe_dump(config, sort_keys=False))
