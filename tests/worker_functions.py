"""Functions that worker processes import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def square(x: int) -> int:
    return x * x


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def fail_on_three(job: tuple[int, str]) -> int:
    number, folder = job
    if number == 3:
        raise ValueError("three")
    (Path(folder) / str(number)).touch()
    return number


def kill_itself(_job: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
