"""What the tests of faults share: start a run, break it, see what is left, compare what comes next."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from infra_lib.files import file_digest
from infra_lib.layout import STAGES
from infra_lib.runner import stage_damage
from infra_lib.verify import verify


def data_digests(project) -> dict[str, str]:
    return {
        str(path.relative_to(project.stage("."))): file_digest(path)
        for stage in STAGES
        for path in sorted((project.stage(stage) / "data").iterdir())
    }


class Started:
    """An `infra run` under way, in a process group of its own, with its output in a file."""

    def __init__(self, project, log: Path, *arguments: str) -> None:
        self.project, self.log = project, log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "infra_lib.cli", "run", "--study", "smoke", *arguments],
                cwd=project.folder,
                env=project.environment,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], object], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the run ended, or nothing came:\n{self.output[-2000:]}")
            time.sleep(0.05)

    def wait_for_stage(self, stage: str) -> None:
        self.wait_for(lambda: f"running {stage}" in self.output)

    def kernel(self) -> psutil.Process | None:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                if "infra_lib.kernel" in " ".join(process.cmdline()):
                    return process
        return None

    def kill_group(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_for_the_end(self) -> int:
        """Wait until the run and everything below it has ended, wherever it was cut; return its status."""
        status = self.process.wait(timeout=120)
        deadline = time.monotonic() + 30
        while left := processes_of(self.project):
            if time.monotonic() > deadline:
                pytest.fail(f"left running: {[process.cmdline() for process in left]}")
            time.sleep(0.1)
        return status


def processes_of(project) -> list[psutil.Process]:
    """Return the processes that work in a project's copy."""
    found = []
    for process in psutil.process_iter(["cwd"]):
        with contextlib.suppress(psutil.Error):
            if process.info["cwd"] == str(project.folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def assert_nothing_looks_complete_that_is_not(project) -> None:
    """Every stage is whole or has not run, and `infra verify` finds nothing torn, changed or unrecorded."""
    for stage in STAGES:
        assert stage_damage(project.stage(stage)) in (None, "it has not run"), stage
    problems = verify(project.folder, "smoke", progress=False).problems
    assert not problems, problems


def assert_next_run_ends_the_same(project, expected: dict[str, str]) -> str:
    """Run again; the data must come out byte for byte as expected."""
    again = project.infra("run", "--study", "smoke")
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-2000:]
    assert data_digests(project) == expected
    return again.stdout


def forget(project, *stages: str) -> None:
    """Take stages' results away, as if they had not run; their training runs and factors stay."""
    for stage in stages:
        shutil.rmtree(project.stage(stage))


def flip_byte(path: Path, random_: random.Random) -> None:
    """Change one bit of one byte of a file."""
    content = bytearray(path.read_bytes())
    place = random_.randrange(len(content))
    content[place] ^= 1 << random_.randrange(8)
    path.write_bytes(bytes(content))


def run_in_mounts(script: str, project, seconds: float = 400) -> subprocess.CompletedProcess:
    """Run a bash script in a mount namespace of its own; skip where this user may not mount."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    probe = [*unshare, "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
    try:
        subprocess.run(probe, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"this machine does not let its user mount a small file system ({error})")
    environment = {
        **project.environment,
        "PYTHON": sys.executable,
        "INFRA": f"{sys.executable} -m infra_lib.cli",
    }
    return subprocess.run(
        [*unshare, "bash", "-c", "set -u\n" + script],
        cwd=project.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
