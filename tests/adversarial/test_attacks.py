"""Every attack ends in the right status, in bounded time, with nothing left running and nothing changed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil
import pytest
from attack_table import SECRET, Attack
from attacks_escaping import ESCAPING
from attacks_exhausting import EXHAUSTING, SURVIVING
from attacks_forging import FORGING

from infra_lib.evaluate import sandbox
from infra_lib.evaluate.sandbox import isolate, watch
from infra_lib.evaluate.sandbox.outcome import Outcome

ROOT = Path(sandbox.__file__).resolve().parents[3]
ATTACKS = [*EXHAUSTING, *SURVIVING, *ESCAPING, *FORGING]

pytestmark = pytest.mark.skipif(
    sandbox.isolation() != "bubblewrap", reason="bubblewrap does not work here: apt-get install bubblewrap"
)


class Ground:
    """What attacks reach for, and whether it is as it was."""

    def __init__(self, folder: Path, marker: str) -> None:
        self.folder, self.marker = folder, marker
        self.namespaces: set[str] = set()
        (folder / "grades.json").write_text('{"correct": false}')
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", self.port))
        self.datagrams.setblocking(False)
        self.unix, self.abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(folder)  # the path of a Unix socket is short
        self.unix.bind("socket")
        os.chdir(here)
        self.abstract.bind(f"\0infra-attack-{self.port}")
        for listening in (self.unix, self.abstract):
            listening.listen()
        self.before = self.state()

    def state(self) -> object:
        files = sorted((path.name, path.stat().st_mode) for path in self.folder.iterdir())
        return files, (self.folder / "grades.json").read_text(), os.getpriority(os.PRIO_PROCESS, 0)

    def received(self) -> bool:
        try:
            return bool(self.datagrams.recv(10))
        except BlockingIOError:
            return False

    def left_running(self) -> list[str]:
        """Processes of the sandbox: by its namespace, or by a mark in the command line that forks inherit."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
                    namespace = os.readlink(entry / "ns" / "pid")
                    ended = (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
                except OSError:
                    continue
                if not ended and (self.marker in command or namespace in self.namespaces):
                    found.append(f"{entry.name} {command[:100]}")
        return found

    def close(self) -> None:
        for opened in (self.server, self.datagrams, self.unix, self.abstract):
            opened.close()


@pytest.fixture
def ground(tmp_path, monkeypatch):
    marker = uuid.uuid4().hex
    here = Ground(tmp_path, marker)
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setattr(isolate, "_LOADER", f"{isolate._LOADER}# {marker}\n")
    plain = watch.Tree.__init__

    def noted(self, root: int, **options) -> None:
        plain(self, root, **options)
        if options.get("namespaced"):
            try:
                here.namespaces.add(os.readlink(f"/proc/{root}/ns/pid"))
            except OSError:
                return

    monkeypatch.setattr(watch.Tree, "__init__", noted)
    yield here
    here.close()


def attack_with(attack: Attack, ground: Ground, isolation: str = "auto") -> Outcome:
    program = attack.program
    for name, value in {
        "FOLDER": ground.folder,
        "PARENT": os.getpid(),
        "PORT": ground.port,
        "TEST": Path(__file__).resolve(),
    }.items():
        program = program.replace(f"@{name}@", str(value))
    options = {"limits": attack.limits, "isolation": isolation}
    if attack.way == "call":
        return sandbox.check_calls(program, "f", [[1], [2]], [SECRET, SECRET], **options)
    if attack.way == "tests":
        return sandbox.run_tests(program, f"assert f(1) == {SECRET}\nassert f(2) == {SECRET}", **options)
    return sandbox.run(program, **options)


def named(attacks: list[Attack], kind: str = "attack"):
    return [
        pytest.param(
            attack,
            id=attack.title.replace(" ", "-").replace(",", ""),
            marks=pytest.mark.reliability(kind=kind, title=attack.title),
        )
        for attack in attacks
    ]


@pytest.mark.parametrize("attack", named(ATTACKS))
def test_an_attack_ends_well(attack: Attack, ground: Ground, record_property) -> None:
    outcome = attack_with(attack, ground)
    record_property("outcome", outcome.status)
    assert outcome.isolation == "bubblewrap"
    assert outcome.status in attack.ends, outcome
    assert "ESCAPED" not in outcome.stdout
    assert "held" in outcome.stdout or "held" not in attack.program
    assert outcome.seconds < attack.limits.wall_seconds + 2
    assert ground.left_running() == []
    assert ground.state() == ground.before
    assert not ground.received()


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.control], ids=lambda attack: attack.title)
def test_the_same_attack_escapes_from_a_plain_process(attack: Attack, ground: Ground) -> None:
    """The control: without namespaces these programs get what they reach for, so the test above can fail."""
    outcome = attack_with(attack, ground, isolation="process")
    assert "ESCAPED" in outcome.stdout, outcome


GRADER = """
import sys
from infra_lib.evaluate import sandbox
sandbox.run(sys.argv[1])
"""
OUTLIVING = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.prctl(1, 0, 0, 0, 0)
for _ in range(2):
    if os.fork() == 0:
        libc.prctl(1, 0, 0, 0, 0)
        os.setsid()
        break
open('ready', 'w').close()
time.sleep(60)
"""


@pytest.mark.reliability(kind="attack", title="a program that would outlive its grader, which is killed")
def test_what_a_killed_grader_was_running_ends_with_it(record_property) -> None:
    grader = subprocess.Popen([sys.executable, "-c", GRADER, OUTLIVING], start_new_session=True)

    def namespaces() -> set[str]:
        """Those of the grader's descendants that are not its own."""
        found = set()
        for process in psutil.Process(grader.pid).children(recursive=True):
            with contextlib.suppress(OSError, psutil.Error):
                found.add(os.readlink(f"/proc/{process.pid}/ns/pid"))
        return found - {os.readlink("/proc/self/ns/pid")}

    def running(within: set[str]) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") in within:
                    found.append(entry.name)
        return found

    try:
        deadline = time.monotonic() + 30
        while len(running(inside := namespaces())) < 3:
            assert time.monotonic() < deadline
            assert grader.poll() is None
            time.sleep(0.05)
        grader.kill()
        grader.wait()
        deadline = time.monotonic() + 5
        while running(inside) and time.monotonic() < deadline:
            time.sleep(0.05)
        record_property("outcome", "every process of the program is gone")
        assert running(inside) == []
    finally:
        for number in running(inside):
            with contextlib.suppress(OSError):
                os.kill(int(number), 9)


@pytest.mark.reliability(kind="attack", title="every attack of this list, in a sandbox that a user starts")
@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs these tests as they are")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_all_attacks_end_as_well_where_an_ordinary_user_starts_them(record_property) -> None:
    """Root starts sandboxes in another way than users do, whose programs share one user of a namespace."""
    user = ["setpriv", "--reuid=61234", "--regid=61234", "--clear-groups", "--inh-caps=-all"]
    with tempfile.TemporaryDirectory(prefix="infra-attacks-", dir="/tmp") as folder:

        def python(interpreter: str, *arguments: str) -> subprocess.CompletedProcess[str]:
            packages = f"{ROOT}{os.pathsep}{Path(pytest.__file__).parents[1]}"
            return subprocess.run(
                [*user, interpreter, "-B", *arguments],
                cwd=folder,
                env={"PATH": os.environ["PATH"], "HOME": folder, "PYTHONPATH": packages},
                capture_output=True,
                text=True,
                check=False,
            )

        for path in Path(__file__).parent.glob("*.py"):
            shutil.copy(path, folder)
        (Path(folder) / "pytest.ini").write_text("[pytest]\nmarkers = reliability\n")
        for path in (Path(folder), *Path(folder).iterdir()):
            os.chown(path, 61234, 61234)
        asked = "import psutil, pytest; from infra_lib.evaluate import sandbox; print(sandbox.isolation())"
        # Root's own interpreter may lie where nobody else may read.
        tried = {name: python(name, "-c", asked) for name in (sys.executable, "/usr/bin/python3")}
        able = [name for name, found in tried.items() if found.stdout.strip() == "bubblewrap"]
        if not able:
            pytest.skip(f"no sandbox for an ordinary user here: {[f.stderr[-200:] for f in tried.values()]}")
        options = ["-q", "-p", "no:cacheprovider", "--basetemp", f"{folder}/made", "--rootdir", folder]
        done = python(able[0], "-m", "pytest", *options, "-k", "ends_well or killed_grader", folder)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert counts["passed"] > len(ATTACKS)
    record_property("inputs", len(ATTACKS))
    record_property("outcome", "each ends as where root starts it")


def test_the_list_is_long_and_without_repetition() -> None:
    titles = [attack.title for attack in ATTACKS]
    assert len(set(titles)) == len(titles) >= 40
