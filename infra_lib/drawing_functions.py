"""The book's page of functions that drew its figures: their documentation and their source."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path

FENCE = "``````"


def functions_page(figures: Path) -> str:
    """Return a section for every function that drew a figure below a folder, by module.

    Figures name their function in the record beside them (:func:`infra_lib.style.save_figure`).
    """
    used: dict[str, list[str]] = {}
    for path in sorted(figures.glob("*/*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["function"]:
            used.setdefault(record["function"], []).append(record["identifier"])
    return "\n".join(_section(name) for name in sorted(used))


def numbered(stage: str, name: str) -> str:
    """Return the directive that shows a figure of ``results/figures`` with a number (``book/_ext``)."""
    label = f"fig-{stage}-{name}".replace("_", "-")
    return f"```{{build-figure}} {stage}/{name}\n:name: {label}\n```"


def function_label(name: str) -> str:
    """Return the label of a function's section, which figures link to."""
    return "function-" + re.sub(r"[^a-z0-9]+", "-", name.lower())


def _section(name: str) -> str:
    module, _, function = name.rpartition(".")
    source = inspect.getsource(inspect.unwrap(getattr(importlib.import_module(module), function)))
    code = f"{FENCE}python\n{source.rstrip()}\n{FENCE}"
    return f"({function_label(name)})=\n## {function}\n\nIn the module `{module}`.\n\n{code}\n"
