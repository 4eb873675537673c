"""environment.yml, pyproject.toml, constraints.txt and the imports cannot drift apart."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from conftest import copy_project
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

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


def pins_of(text: str) -> dict[str, str]:
    """Return the pins of a file, by name; of a package that is pinned per Python version, the first."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        pin = line.removesuffix(" \\").partition(" ;")[0]
        if line.strip() and not line.startswith(("#", " ")):
            assert re.fullmatch(r"[\w.-]+==[\w.!+]+", pin), f"{line}: exact pins only, no address"
            name, version = pin.split("==")
            found.setdefault(canonicalize_name(name), version)
    return found


@pytest.fixture(scope="module")
def pins(root) -> dict[str, str]:
    return pins_of((root / "constraints.txt").read_text())


@pytest.fixture(scope="module")
def locked(root) -> dict[str, str]:
    files = ("build.txt", "torch.txt", "rest.txt")
    return {k: v for name in files for k, v in pins_of((root / "locks" / name).read_text()).items()}


CUDA = re.compile(r"nvidia-|cuda-|triton$")


def test_lock_and_constraints_agree(locked, pins, requirements) -> None:
    assert set(requirements) <= set(locked)
    ours = {name: version for name, version in locked.items() if not CUDA.match(name)}
    assert ours == {name: pins.get(name) for name in ours}, "`make lock` writes the lock from constraints.txt"


def test_every_locked_file_has_a_hash_and_no_address(root) -> None:
    for path in sorted((root / "locks").glob("*.txt")):
        text = path.read_text()
        assert "://" not in text
        assert "--index" not in text
        entries = re.split(r"\n(?=[a-z])", text.partition("\n")[2])
        named = [entry for entry in entries if re.match(r"[a-z]", entry)]
        assert named
        for entry in named:
            hashes = re.findall(r"--hash=sha256:([0-9a-f]+)", entry)
            assert hashes, entry
            assert all(len(digest) == 64 for digest in hashes)


def test_the_cpu_build_of_torch_is_of_the_pinned_version(root, pins) -> None:
    cpu = pins_of((root / "locks" / "torch-cpu.txt").read_text())
    assert cpu == {"torch": f"{pins['torch']}+cpu"}
    assert not [name for name in pins_of((root / "locks" / "rest.txt").read_text()) if CUDA.match(name)]


def test_what_is_locked_needs_nothing_that_is_not(locked) -> None:
    """Installed without dependencies, so that each must be in the lock itself."""
    for name in locked:
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another system
        for requirement in map(Requirement, needed):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                other = canonicalize_name(requirement.name)
                assert other in locked, f"{name} needs {other}"
                assert requirement.specifier.contains(locked[other], prereleases=True), (
                    f"{name}: {requirement}"
                )


def test_minimum_versions_are_the_lower_bounds(root, requirements) -> None:
    lowest = pins_of((root / "constraints-minimum.txt").read_text())
    for name, requirement in requirements.items():
        bounds = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==")]
        assert name in lowest
        if bounds:
            assert Version(lowest[name]) == max(bounds), f"{requirement} is tested with {lowest[name]}"
        assert requirement.specifier.contains(lowest[name])


def test_set_up_checks_hashes_wherever_it_is_described(root) -> None:
    makefile, readme = (root / "Makefile").read_text(), (root / "README.md").read_text()
    for name in ("build", "torch-cpu", "torch", "rest"):
        assert f"-r locks/{name}.txt" in makefile
        assert (
            f"--require-hashes --no-deps {'--no-build-isolation ' * (name == 'rest')}-r locks/{name}.txt"
            in readme
        )
    assert "--require-hashes --no-deps" in makefile
    by_hand = readme[readme.index("<details>") : readme.index("</details>")]
    for command in re.findall(r"pip install [^|\n]*", by_hand.split("```")[1]):
        assert "--require-hashes" in command or command.startswith("pip install --no-deps"), command


def workflows(root) -> dict[str, dict]:
    return {
        path.stem: yaml.safe_load(path.read_text()) for path in (root / ".github" / "workflows").glob("*.yml")
    }


def test_workflows_are_whole_pinned_and_may_do_little(root) -> None:
    found = workflows(root)
    assert {"test", "book", "audit"} <= set(found)
    for name, workflow in found.items():
        assert set(workflow) >= {"name", True, "permissions", "jobs"}, name  # YAML reads `on` as true
        assert workflow["permissions"]["contents"] == "read"
        assert name == "book" or workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            assert job["timeout-minutes"] <= 90
            for step in job["steps"]:
                assert ("uses" in step) != ("run" in step)
                if "uses" in step:
                    assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]), step["uses"]
                assert "secrets." not in str(step)
                assert "github.event" not in str(step), "text of a pull request may not reach a shell"


def test_workflows_run_the_pinned_the_lowest_and_the_wheel(root, project) -> None:
    found = workflows(root)
    jobs = found["test"]["jobs"]
    tried = {entry["python"] for entry in jobs["test"]["strategy"]["matrix"]["include"]}
    assert tried == {"3.11", "3.12", "3.13"}
    assert ".ci/run" in [step.get("run") for step in jobs["test"]["steps"]]
    assert any("constraints-minimum.txt" in step.get("run", "") for step in jobs["minimum"]["steps"])
    assert any(step.get("run") == "make wheel-smoke" for step in jobs["wheel"]["steps"])
    for name, job in jobs.items():  # each runs programs in the sandbox
        assert any("apparmor_restrict_unprivileged_userns=0" in s.get("run", "") for s in job["steps"]), name
    assert found["audit"][True]["schedule"]
    audit = " ".join(step.get("run", "") for step in found["audit"]["jobs"]["audit"]["steps"])
    assert re.findall(r"-r (\S+)", audit) == [
        "locks/build.txt",
        "locks/torch.txt",
        "locks/rest.txt",
        "locks/peers.txt",
    ]


def test_every_requirement_has_a_pin_that_it_admits(requirements, pins) -> None:
    for name, requirement in requirements.items():
        assert name in pins, f"{name} is not pinned"
        assert requirement.specifier.contains(pins[name]), f"{name}: {pins[name]} does not fit {requirement}"


@pytest.mark.pinned
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


def test_version_is_one(root, project) -> None:
    import infra_lib

    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert project["version"] == infra_lib.__version__ == citation["version"]
    assert f"## {project['version']}" in (root / "CHANGELOG.md").read_text()


# --- The wheel ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    """Return the built wheel; it is built from a copy, since building leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(root / name, folder)
    shutil.copytree(root / "infra_lib", folder / "infra_lib", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(folder / "dist"), str(folder)], check=True, capture_output=True)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_the_library_with_its_data_and_nothing_else(root, wheel) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {
        str(path.relative_to(root))
        for path in (root / "infra_lib").rglob("*")
        if path.suffix in (".py", ".yaml", ".json") and "__pycache__" not in path.parts
    }
    assert "infra_lib/paper.yaml" in files
    assert "infra_lib/plan/architectures/qwen2.5-7b.json" in files
    assert any(name.endswith("driver.py") for name in files)
    assert {name for name in names if ".dist-info/" not in name} == files


def test_the_wheel_runs_a_notebook_without_the_source(root, wheel, tmp_path) -> None:
    """Installed beside the packages of this environment, with the project's notebooks and not its library."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    (tmp_path / "project").mkdir()
    project = copy_project(root, tmp_path / "project")
    project.environment |= {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import infra_lib; print(infra_lib.__file__)"],
        cwd=project.folder, env=project.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(site))
    done = project.infra("run", "--study", "smoke", "01")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    record = json.loads((project.stage("01_data") / "provenance.json").read_text())
    assert record["environment"]["commit"] == "not a git checkout"
    assert not any(path.name == "infra_lib" for path in project.folder.rglob("infra_lib"))
