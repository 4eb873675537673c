"""Which of the library's modules a piece of code depends on, and a digest of what they do.

Dependencies are read from the source without running it: every ``import`` of the
library counts, those inside functions too, and what the imported modules import in
turn. Digests are of the parsed program, so that a comment, a docstring or a new line
break changes nothing, and no model is trained again for a typo.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).resolve().parent


def module_files(modules: Iterable[str]) -> list[Path]:
    """Return the source files of library modules and of all that they import, sorted."""
    found: set[Path] = set()
    waiting = [path for name in modules for path in _files_of(name)]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [
                p for name in imported(path.read_text(encoding="utf-8"), path) for p in _files_of(name)
            ]
    return sorted(found)


def imported(source: str, path: Path | None = None) -> set[str]:
    """Return the library modules that a source imports, as dotted names below ``infra_lib``.

    ``from infra_lib import figures`` names ``infra_lib.figures``; names that are no modules are dropped
    by the caller.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source, filename=str(path or "source"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name == "infra_lib" or name.startswith("infra_lib.")}


def _files_of(name: str) -> list[Path]:
    """Return a module's file with those of the packages around it; nothing for a name that is no module."""
    parts = name.split(".")[1:]
    files = []
    for depth in range(len(parts) + 1):
        base = LIBRARY.joinpath(*parts[:depth])
        if (base / "__init__.py").is_file():
            files.append(base / "__init__.py")
        elif depth and base.with_suffix(".py").is_file():
            files.append(base.with_suffix(".py"))
    return files


def program_digest(path: Path) -> str:
    """Return a digest of a Python file that ignores comments, docstrings and layout."""
    return _digest(path, path.stat().st_mtime_ns)


@cache
def _digest(path: Path, _modified: int) -> str:
    return source_digest(path.read_text(encoding="utf-8"))


def source_digest(source: str) -> str:
    """Return a digest of Python source that ignores comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            node.body = body[1:]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode("utf-8")).hexdigest()


def code_digest(*modules: str) -> str:
    """Return one digest of library modules and all that they import."""
    lines = [f"{path.relative_to(LIBRARY)} {program_digest(path)}" for path in module_files(modules)]
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()
