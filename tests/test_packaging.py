"""environment.yml, pyproject.toml, constraints.txt and the imports cannot drift apart."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMPORT_NAMES = {"yaml": "pyyaml", "math_verify": "math-verify", "trak": "traker", "rank_bm25": "rank-bm25"}


@pytest.fixture(scope="module")
def project(root) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def requirements(project) -> dict[str, Requirement]:
    lines = project["dependencies"] + [
        r for extra in project["optional-dependencies"].values() for r in extra
    ]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


@pytest.fixture(scope="module")
def pins(root) -> dict[str, str]:
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines), (
        "exact pins only, no URL, no local version"
    )
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_every_requirement_has_a_pin_that_it_admits(requirements, pins) -> None:
    for name, requirement in requirements.items():
        assert name in pins, f"{name} is not pinned"
        assert requirement.specifier.contains(pins[name]), f"{name}: {pins[name]} does not fit {requirement}"


def test_installed_versions_are_the_pinned_ones(requirements, pins) -> None:
    for name in requirements:
        assert metadata.version(name).split("+")[0] == pins[name]


def test_environment_file_has_python_pip_and_the_same_installs(root, project, pins) -> None:
    environment = yaml.safe_load((root / "environment.yml").read_text())
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = next(d for d in environment["dependencies"] if isinstance(d, dict))["pip"]
    assert [re.split("[=<>]", d)[0] for d in conda] == ["python", "pip"]
    python = conda[0].split("=")[1]
    assert project["requires-python"] == f">={python}"
    assert pip == ["-c constraints.txt", f"torch=={pins['torch']}", "-e .[book,test]"]


def test_every_import_of_the_library_is_declared(root, requirements) -> None:
    used = set()
    for path in (root / "infra_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                used.add(node.module.split(".")[0])
    third_party = used - set(sys.stdlib_module_names) - {"infra_lib"}
    declared = set(requirements)
    missing = {m for m in third_party if canonicalize_name(IMPORT_NAMES.get(m, m)) not in declared}
    assert not missing


def test_every_dependency_says_why_it_is_there(root) -> None:
    text = (root / "pyproject.toml").read_text()
    block = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]
    lines = [line for line in block.splitlines() if line.strip().startswith('"')]
    unexplained = [line for line in lines if "#" not in line]
    assert len(unexplained) <= 1, unexplained  # numpy explains itself


def test_tests_and_ci_run_the_readmes_command(root) -> None:
    assert "make test" in (root / ".ci" / "run").read_text()
    readme = (root / "README.md").read_text()
    assert "make test" in readme
    assert "make book" in readme
    assert "conda env create -f environment.yml" in readme


def test_no_pickle_and_no_unsafe_loading(root) -> None:
    pattern = re.compile(
        r"^\s*(import|from) (pickle|dill|cloudpickle|joblib)\b|torch\.(load|save)\("
        r"|weights_only=False|trust_remote_code=True",
        re.MULTILINE,
    )
    for folder in ("infra_lib", "notebooks", "book", "workflow", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            assert not pattern.search(path.read_text()), path


def test_version_is_one(root, project) -> None:
    import infra_lib

    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert project["version"] == infra_lib.__version__ == citation["version"]
    assert f"## {project['version']}" in (root / "CHANGELOG.md").read_text()
