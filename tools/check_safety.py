"""Find code that could run what it only meant to read: pickle, unsafe loaders, ``eval`` and ``exec``.

``python tools/check_safety.py`` checks the whole project, with file names those files alone; the
test suite and the pre-commit hook call it. It reads the syntax tree, so an alias
(``import torch as t; t.load(…)``) is found and a comment is not.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("infra_lib", "notebooks", "book", "benchmarks", "tests", "tools", "workflow")
SKIPPED = {"results", "_build", "__pycache__"}

BOX = "infra_lib/evaluate/sandbox/"
ALLOWED = {
    # The sandbox runs the program that it is given. Marshal goes inward only, from what grades to what is
    # graded; what comes back is read by `wire`, which knows text, numbers and lists.
    BOX + "driver.py": {"exec", "marshal"},
    BOX + "judge.py": {"exec", "marshal"},  # runs a problem's own tests, in a box of their own
    BOX + "box.py": {"marshal"},
    BOX + "process.py": {"marshal"},
    BOX + "isolate.py": {"exec", "marshal"},
    "tests/sources/test_small_world.py": {"exec", "eval"},  # runs programs that the project itself wrote
    "tests/evaluate/test_official.py": {"exec"},  # runs the prelude of the official checker
    "tests/sources/test_private_cases.py": {"pickle", "pickle.loads"},  # makes the pickles that are refused
}
"""Rules that a file may break, each with its reason."""

MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
FORBIDDEN_CALLS = {
    "torch.save": "writes pickle; use safetensors",
    "pandas.read_pickle": "reads pickle",
    "yaml.load": "makes objects; use infra_lib.plain_yaml or yaml.safe_load",
    "yaml.load_all": "makes objects; use yaml.safe_load_all",
    "yaml.unsafe_load": "makes objects; use yaml.safe_load",
    "yaml.full_load": "makes objects; use yaml.safe_load",
    "os.system": "runs a shell; use subprocess.run with a list",
}
BUILTINS = ("eval", "exec")
NEEDED = {"torch.load": ("weights_only", True)}
"""Calls that need a keyword with a value."""
LITERAL = {
    "trust_remote_code": False,
    "weights_only": True,
    "use_safetensors": True,
    "allow_pickle": False,
    "shell": False,
}
"""Keywords that have one safe value, whatever they are given to."""


def findings(source: str, name: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, rule, problem) for a Python source."""
    tree = ast.parse(source, filename=name)
    aliases = dict(_aliases(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            for module in named:
                if module.split(".")[0] in MODULES:
                    yield node.lineno, module, f"imports {module}, which runs code that it reads"
        elif isinstance(node, ast.Call):
            yield from _call(node, aliases)


def _aliases(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names that a source gives to modules and what is in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield alias.asname, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _call(node: ast.Call, aliases: dict[str, str]) -> Iterator[tuple[int, str, str]]:
    name = _dotted(node.func, aliases)
    short = name.removeprefix("builtins.")
    if short in BUILTINS:
        yield node.lineno, short, f"calls {short}; read values with ast.literal_eval"
    if name in FORBIDDEN_CALLS:
        yield node.lineno, name, f"calls {name}, which {FORBIDDEN_CALLS[name]}"
    if name.endswith((".to_pickle", ".read_pickle")) and name not in FORBIDDEN_CALLS:
        yield node.lineno, name, f"calls {name}, which is pickle"
    if name in ("importlib.import_module", "__import__") and node.args:
        module = node.args[0]
        if isinstance(module, ast.Constant) and str(module.value).split(".")[0] in MODULES:
            yield node.lineno, str(module.value), f"imports {module.value}, which runs code that it reads"
    given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    if name in NEEDED and NEEDED[name][0] not in given:
        keyword, value = NEEDED[name]
        yield node.lineno, name, f"calls {name} without {keyword}={value}"
    for keyword, value in given.items():
        safe = LITERAL.get(keyword)
        if safe is not None and not (isinstance(value, ast.Constant) and value.value is safe):
            yield node.lineno, keyword, f"{keyword} must be written as {safe}"


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    """Return the dotted name of what is called, its module under its full name; "" for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        # What a call returns (frame.head().to_pickle(…)) still has a method's name.
        return ".".join(["?", *reversed(parts)]) if parts else ""
    return ".".join([aliases.get(node.id, node.id), *reversed(parts)])


def project_files(root: Path = ROOT) -> list[Path]:
    """Return every Python file of the project."""
    found = [path for folder in FOLDERS for path in (root / folder).rglob("*.py")]
    return sorted(p for p in found if not SKIPPED & set(p.relative_to(root).parts))


def check(paths: Iterable[Path], root: Path = ROOT) -> list[str]:
    """Return one line for every piece of unsafe code in the files."""
    lines = []
    for path in paths:
        resolved = path.resolve()
        name = str(resolved.relative_to(root)) if resolved.is_relative_to(root) else str(path)
        for line, rule, problem in findings(path.read_text(encoding="utf-8"), name):
            if rule not in ALLOWED.get(name, set()):
                lines.append(f"{name}:{line}: {problem}")
    return lines


if __name__ == "__main__":
    problems = check([Path(name) for name in sys.argv[1:]] or project_files())
    print("\n".join(problems), end="\n" if problems else "")
    sys.exit(bool(problems))
