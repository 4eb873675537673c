"""What of a run's results may stand in the book: no paths of this machine, nothing hidden, nothing that runs.

Fragments escape the text in them (:mod:`infra_lib.markup`). This module does not rely on it: a
notebook may show a data frame, print a model's answer or display whatever it likes, so outputs are
reduced to text, pictures and HTML that does nothing, and anything else stops the build.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infra_lib.errors import DataError, InfraError
from infra_lib.markup import active_markup, visible

TEXTS = ("text/plain", "text/html", "image/svg+xml")
PICTURES = ("image/png", "image/jpeg")
"""Kinds of output that pages show. Markdown, LaTeX, scripts and widgets are not among them."""


def published_notebook(root: Path, stage: str, path: Path) -> str:
    """Return an executed notebook as a page of the book, as JSON text.

    Raises
    ------
    InfraError
        For a notebook that failed.
    DataError
        Naming the cell whose output would run or load something.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    if notebook["metadata"].get("papermill", {}).get("exception"):
        raise InfraError(f"{stage} ended in an error and is no page of a book; run it again")
    notebook["metadata"] = {
        "papermill": {"parameters": notebook["metadata"].get("papermill", {}).get("parameters", {})},
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": notebook["metadata"].get("language_info", {"name": "python"}),
    }
    for number, cell in enumerate(notebook["cells"], start=1):
        cell["metadata"] = {"tags": cell["metadata"].get("tags", [])}
        if prompt := _preparation(cell):
            cell["metadata"]["tags"].append("hide-input")
            cell["metadata"]["mystnb"] = {"code_prompt_show": prompt, "code_prompt_hide": prompt}
        if "outputs" in cell:
            shown = [_shown(path, number, output) for output in cell["outputs"]]
            cell["outputs"] = [output for output in shown if output is not None]
    return json.dumps(notebook, indent=1, ensure_ascii=False).replace(f"{root}/", "") + "\n"


def _preparation(cell: dict[str, Any]) -> str | None:
    """Return under which words a page folds a cell away: parameters and imports; None for the others."""
    tags = cell["metadata"]["tags"]
    if "parameters" in tags:
        return "The parameters, with their defaults"
    if "injected-parameters" in tags:
        return "The parameters of this study"
    if cell["cell_type"] == "code" and not cell.get("outputs") and "open_stage(" in _joined(cell["source"]):
        return "The imports"
    return None


def _shown(path: Path, number: int, output: dict[str, Any]) -> dict[str, Any] | None:
    """Return an output reduced to what a page shows, or None where nothing is left."""
    if output["output_type"] == "stream":
        return {**output, "text": visible(_joined(output["text"]))}
    if output["output_type"] not in ("display_data", "execute_result"):
        return None
    data = {kind: value for kind, value in output["data"].items() if kind in PICTURES}
    for kind in TEXTS:
        if kind in output["data"]:
            data[kind] = visible(_joined(output["data"][kind]))
            if kind != "text/plain" and (found := active_markup(data[kind])):
                raise DataError(path, f"cell {number} shows {found}, which pages of the book do not hold")
    return {**output, "data": data, "metadata": {}} if data else None


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def check_fragments(folder: Path) -> None:
    """Raise for a fragment or drawing below a folder that would run or load something on a page.

    Raises
    ------
    DataError
        Naming the file and what it holds.
    """
    for path in sorted([*folder.rglob("*.md"), *folder.rglob("*.svg")]):
        if found := active_markup(path.read_text(encoding="utf-8")):
            raise DataError(path, f"holds {found}, which pages of the book do not")
