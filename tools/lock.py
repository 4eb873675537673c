"""Write the lock files from pyproject.toml and constraints.txt (`make lock`).

``constraints.txt``
    The source of the versions: a pin that stands there is kept, and pins of packages that came
    in since are added.
``requirements.lock``
    The same pins with the SHA-256 of every file that may be installed, for Linux and macOS and
    Python 3.11 to 3.13.
``requirements-cuda.lock``
    What a CUDA build of torch needs besides, so that a CPU build installs without it.
``constraints-minimum.txt``
    The lowest version that pyproject.toml admits of each direct requirement.

Needs ``uv``; nothing here runs while the project is installed or used.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.11.5"
"""The oldest Python that the pinned packages support."""

CUDA = re.compile(r"^(nvidia-|cuda-|triton$)")
"""Packages that a CUDA build of torch asks for and a CPU build does not."""

CPU_BUILDS = {
    # torch 2.13.0+cpu for Linux x86-64 and Python 3.11: a file of its own beside those of the package
    # index, which the pin torch==2.13.0 admits as well.
    ("torch", "2.13.0"): ("6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",),
}
"""Hashes of builds that the package index does not list, by name and version."""

HEADERS = {
    "constraints.txt": (
        "# Exact versions of everything in the environment, the one that the default study was run with.\n"
        "# To add or change a pin: edit this file, then `make lock`, which writes requirements.lock from it.\n"
    ),
    "requirements.lock": (
        "# Written by `make lock` from pyproject.toml and constraints.txt; not edited by hand.\n"
        "# pip install --require-hashes --no-deps -r requirements.lock\n"
    ),
    "requirements-cuda.lock": (
        "# Written by `make lock`; what a CUDA build of torch needs besides requirements.lock.\n"
        "# pip install --require-hashes --no-deps -r requirements-cuda.lock\n"
    ),
    "constraints-minimum.txt": (
        "# Written by `make lock`: the lowest versions that pyproject.toml admits, and what they need.\n"
        "# Continuous integration runs the tests with them: pip install -c constraints-minimum.txt -e '.[test]'\n"
    ),
}


PLATFORMS = (
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
)
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = [
    {
        **platform,
        "python_version": python,
        "python_full_version": f"{python}.9",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    for platform in PLATFORMS
    for python in PYTHONS
]
"""The systems that the lock files are made for."""


def short_marker(marker: Marker | None) -> str | None:
    """Return a marker as short as it can be over :data:`SYSTEMS`: "" where it always holds, None where never.

    The resolver repeats in each marker what the lock files are made for.
    """
    holds = [marker is None or marker.evaluate(system) for system in SYSTEMS]
    if all(holds) or not any(holds):
        return "" if all(holds) else None
    for name in ("sys_platform", "python_version"):
        values = {system[name] for system, held in zip(SYSTEMS, holds, strict=True) if held}
        if all(held == (system[name] in values) for system, held in zip(SYSTEMS, holds, strict=True)):
            return " or ".join(f"{name} == '{value}'" for value in sorted(values))
    return str(marker)


class Entry:
    """One package of a lock file."""

    def __init__(self, line: str, hashes: list[str]) -> None:
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        self.name, self.version = requirement.name, pin.version
        self.marker = short_marker(requirement.marker)
        extra = [f"sha256:{digest}" for digest in CPU_BUILDS.get((self.name, self.version), ())]
        self.hashes = sorted({*hashes, *extra})

    def pin(self) -> str:
        """Return ``name==version``, with its marker where it has one."""
        return f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")

    def locked(self) -> str:
        """Return the pin followed by its hashes."""
        return " \\\n".join([self.pin(), *(f"    --hash={digest}" for digest in self.hashes)])


def compile_pins(*arguments: str) -> list[Entry]:
    """Resolve the project's requirements with uv and return the packages found, sorted by name."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    command = [uv, "pip", "compile", "pyproject.toml", "--python-version", PYTHON, "--quiet"]
    command += ["--no-annotate", "--no-header", "--extra", "book", "--extra", "test", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return parse(done.stdout)


def parse(text: str) -> list[Entry]:
    """Read the text of a lock file."""
    joined = re.sub(r" \\\n\s*", " ", text)
    entries = []
    for line in joined.splitlines():
        if line.strip() and not line.startswith("#"):
            requirement, *hashes = line.split("--hash=")
            entries.append(Entry(requirement.strip(), [digest.strip() for digest in hashes]))
    return sorted((entry for entry in entries if entry.marker is not None), key=lambda entry: entry.name)


def added_to(text: str, entries: list[Entry]) -> str:
    """Return the text of constraints.txt with the pins of ``entries``; lines that hold already are kept."""
    kept = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            kept[canonicalize_name(line.split("==")[0])] = line
    for entry in entries:
        if kept.get(entry.name, "").partition("==")[2].split(" ;")[0] != entry.version:
            kept[entry.name] = entry.pin()
    return HEADERS["constraints.txt"] + "".join(f"{line}\n" for _, line in sorted(kept.items()))


def write(name: str, lines: list[str]) -> None:
    """Write a file with its header."""
    (ROOT / name).write_text(HEADERS[name] + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write all four files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions instead of the pins")
    kept = [] if parser.parse_args().upgrade else ["--constraints", "constraints.txt"]
    entries = compile_pins("--universal", "--generate-hashes", *kept)
    cuda = [entry for entry in entries if CUDA.match(entry.name)]
    usual = [entry for entry in entries if not CUDA.match(entry.name)]
    constraints = ROOT / "constraints.txt"
    constraints.write_text(added_to(constraints.read_text(encoding="utf-8"), usual), encoding="utf-8")
    write("requirements.lock", [entry.locked() for entry in usual])
    write("requirements-cuda.lock", [entry.locked() for entry in cuda])
    lowest = compile_pins("--resolution", "lowest-direct", "--python-platform", "linux")
    write("constraints-minimum.txt", [entry.pin() for entry in lowest if not CUDA.match(entry.name)])


if __name__ == "__main__":
    main()
