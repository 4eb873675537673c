"""The sandbox ends what does not end, caps what is too much, and shows programs nothing."""

from __future__ import annotations

import time

import pytest

from infra_lib.evaluate import sandbox
from infra_lib.evaluate.sandbox import Limits, run

needs_bubblewrap = pytest.mark.skipif(
    sandbox.isolation() != "bubblewrap", reason="bubblewrap does not work on this machine"
)


def test_output_input_and_files_arrive() -> None:
    outcome = run("print(input() + open('a.txt').read())", stdin="x\n", files={"a.txt": "y"})
    assert (outcome.status, outcome.stdout) == ("ok", "xy\n")


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("1/0", "error"),
        ("import sys; sys.exit(3)", "error"),
        ("while True: pass", "timeout"),
        ("import time; time.sleep(60)", "timeout"),
        ("x = 'a' * 10**10", "memory"),
        ("while True: print('x' * 1000)", "output"),
        ("import ctypes; ctypes.string_at(0)", "killed"),
        ("def g(n): return g(n + 1)\ng(0)", "error"),
        ("open('big', 'wb').write(b'x' * 5_000_000)", "error"),
    ],
)
def test_each_end_has_its_status_in_bounded_time(program: str, status: str) -> None:
    started = time.monotonic()
    outcome = run(program, limits=Limits(cpu_seconds=1, wall_seconds=3))
    assert outcome.status == status
    assert time.monotonic() - started < 6


def test_nothing_of_the_environment_is_inherited(monkeypatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    assert "hunter2" not in run("import os; print(dict(os.environ))").stdout


def test_nothing_survives_a_timeout(tmp_path) -> None:
    program = """
import subprocess, sys, time
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(7777)'])
time.sleep(60)
"""
    run(program, limits=Limits(wall_seconds=1))
    import psutil

    time.sleep(0.2)
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if "time.sleep(7777)" in " ".join(p.info["cmdline"] or [])
    ]


@needs_bubblewrap
def test_the_project_the_network_and_other_processes_are_out_of_sight(root) -> None:
    program = f"""
import os, socket
print(os.path.exists({str(root / "README.md")!r}), os.path.exists('/etc/passwd'), os.getuid() != 0)
print(len([p for p in os.listdir('/proc') if p.isdigit()]) < 5)
try:
    socket.create_connection(('127.0.0.1', 22), timeout=1)
except OSError as error:
    print('no network')
try:
    open('/usr/x', 'w')
except OSError:
    print('read-only')
"""
    outcome = run(program)
    assert outcome.stdout.split("\n")[:4] == ["False False True", "True", "no network", "read-only"], outcome
