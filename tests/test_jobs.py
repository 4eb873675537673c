"""Parallel work comes back in order, and an error leaves what finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from worker_functions import fail_on_three, kill_itself, square

from infra_lib.errors import InfraError, ParameterError
from infra_lib.jobs import run_jobs


def test_results_come_in_the_order_of_the_jobs() -> None:
    assert run_jobs(square, list(range(7)), processes=2, progress=False) == [i * i for i in range(7)]


@pytest.mark.reliability(kind="fault", title="one of several parallel jobs fails")
def test_an_error_is_raised_and_finished_jobs_stay(tmp_path) -> None:
    jobs = [(i, str(tmp_path)) for i in range(1, 4)]
    with pytest.raises(ValueError, match="three"):
        run_jobs(fail_on_three, jobs, processes=1, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.reliability(kind="fault", title="a parallel worker is killed, as for want of memory")
def test_a_killed_worker_is_named_with_what_helps(record_property) -> None:
    with pytest.raises(InfraError, match=r"runs was killed from outside.*-p processes=1"):
        run_jobs(kill_itself, [1, 2], processes=1, progress=False)
    record_property("outcome", "a named error with what helps")


def test_no_process_is_an_error() -> None:
    with pytest.raises(ParameterError, match="processes"):
        run_jobs(square, [1], processes=0)


@pytest.mark.reliability(kind="fault", title="the parent of parallel workers is killed")
def test_workers_end_when_their_parent_is_killed(root) -> None:
    script = (
        "from infra_lib.jobs import run_jobs\nfrom worker_functions import sleep\n"
        "if __name__ == '__main__':\n    run_jobs(sleep, [98.7654, 98.7654], progress=False)\n"
    )
    path = root / "_build" / "kill_me.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(root / "tests")}
    parent = subprocess.Popen([sys.executable, str(path)], env=environment)
    import psutil

    deadline = time.monotonic() + 40
    children: list[psutil.Process] = []
    while len(children) < 3 and time.monotonic() < deadline:  # two workers and the resource tracker
        children = psutil.Process(parent.pid).children(recursive=True)
        time.sleep(0.2)
    time.sleep(4)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive
