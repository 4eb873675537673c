"""Write the lock files from pyproject.toml and constraints.txt (`make lock`).

``constraints.txt``
    The source of the versions: a pin that stands there is kept, and pins of packages that came
    in since are added.
``locks/build.txt``, ``locks/torch.txt``, ``locks/rest.txt``
    The same pins with the SHA-256 of every file that may be installed, for Linux and macOS and
    Python 3.11 to 3.13: what builds the packages that come as source only; torch and what its
    CUDA build needs; all else. In this order.
``locks/torch-cpu.txt``
    The CPU build of torch, which is tried first: where pip finds it, torch.txt (gigabytes) is not needed.
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

TORCH = re.compile(r"^(torch$|nvidia-|cuda-|triton$)")
"""Torch, and the packages that its CUDA build asks for and a CPU build does not."""

BUILD = ("packaging", "setuptools", "wheel")
CPU_BUILDS = {"2.13.0": ("6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",)}
"""SHA-256 of torch's CPU builds, by version: files beside those of the package index, for Linux on x86-64
and Python 3.11."""

WRITTEN = "# Written by `make lock` from pyproject.toml and constraints.txt; not edited by hand.\n"
HEADERS = {
    "constraints.txt": (
        "# Exact versions of everything in the environment, the one that the default study was run with.\n"
        "# To add or change a pin: edit this file, then `make lock`, which writes locks/ from it.\n"
    ),
    "locks/build.txt": WRITTEN
    + "# What builds packages that come as source, and this project. First of all.\n",
    "locks/torch-cpu.txt": WRITTEN + "# The CPU build of torch; where pip finds none, torch.txt.\n",
    "locks/torch.txt": WRITTEN
    + "# Torch as the package index has it, with the libraries of its CUDA build.\n",
    "locks/rest.txt": WRITTEN + "# Everything else; after torch, with --no-build-isolation.\n",
    "constraints-minimum.txt": (
        "# Written by `make lock`: the lowest versions that pyproject.toml admits, and what they need.\n"
        "# Continuous integration tests them: pip install -c constraints-minimum.txt -e '.[book,test]'\n"
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
        self.hashes = sorted(set(hashes))

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
    (ROOT / name).parent.mkdir(exist_ok=True)
    (ROOT / name).write_text(HEADERS[name] + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write all four files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions instead of the pins")
    kept = [] if parser.parse_args().upgrade else ["--constraints", "constraints.txt"]
    entries = compile_pins("--universal", "--generate-hashes", *kept)
    usual = [entry for entry in entries if entry.name == "torch" or not TORCH.match(entry.name)]
    constraints = ROOT / "constraints.txt"
    constraints.write_text(added_to(constraints.read_text(encoding="utf-8"), usual), encoding="utf-8")
    write("locks/build.txt", [entry.locked() for entry in entries if entry.name in BUILD])
    write("locks/torch.txt", [entry.locked() for entry in entries if TORCH.match(entry.name)])
    write("locks/rest.txt", [e.locked() for e in entries if e.name not in BUILD and not TORCH.match(e.name)])
    version = next(entry.version for entry in entries if entry.name == "torch")
    builds = [f"sha256:{digest}" for digest in CPU_BUILDS.get(version, ())]
    write("locks/torch-cpu.txt", [Entry(f"torch=={version}+cpu", builds).locked()] if builds else [])
    lowest = compile_pins("--resolution", "lowest-direct", "--python-platform", "linux")
    write(
        "constraints-minimum.txt",
        [entry.pin() for entry in lowest if entry.name == "torch" or not TORCH.match(entry.name)],
    )


if __name__ == "__main__":
    main()
