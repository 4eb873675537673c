"""What walling off costs: programs graded per second, beside plain processes of the same interpreter.

Three ways take turns on the same small program, so that all of them meet the same machine:

- ``sandbox``: :func:`infra_lib.evaluate.sandbox.check_calls`, each program in namespaces of its own;
- ``process``: the same without namespaces (what ``sandbox=process`` accepts);
- ``plain``: ``python -c`` started and awaited, with no limits and nothing graded.

Run: ``python -m benchmarks.sandbox [--programs 200] [--write]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.records import keep
from infra_lib.evaluate import sandbox
from infra_lib.evaluate.grade_code import WORKERS
from infra_lib.evaluate.sandbox.view import interpreter_file
from infra_lib.provenance import environment

PROGRAM = "def f(x):\n    return sum(x)\n"
RECORD = Path(__file__).resolve().parents[1] / "records" / "benchmarks" / "sandbox.json"
ROUNDS = 4


def walled_off(_: int) -> bool:
    return sandbox.check_calls(PROGRAM, "f", [[[1, 2]], [[3]]], [3, 3]).status == "ok"


def limited(_: int) -> bool:
    return sandbox.check_calls(PROGRAM, "f", [[[1, 2]], [[3]]], [3, 3], isolation="process").status == "ok"


def plain(_: int) -> bool:
    command = [str(interpreter_file()), "-c", PROGRAM + "print(f([1, 2]), f([3]))"]
    return subprocess.run(command, capture_output=True, check=False, env={}).stdout == b"3 3\n"


WAYS: dict[str, Callable[[int], bool]] = {"sandbox": walled_off, "process": limited, "plain": plain}


def rate(way: Callable[[int], bool], programs: int, workers: int) -> float:
    """Return programs per second, all of which must be right."""
    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        assert all(pool.map(way, range(programs)))
    return programs / (time.perf_counter() - started)


def measure(programs: int, workers: int) -> dict[str, float]:
    """Return the median rate of each way over rounds in which they take turns."""
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            rates[name].append(rate(way, programs, workers))
    return {name: round(statistics.median(found), 1) for name, found in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=200, help="programs per way and number of workers")
    parser.add_argument("--write", action="store_true", help=f"keep the numbers in {RECORD.name}")
    options = parser.parse_args()
    sandbox.resolve()
    each = max(1, options.programs // ROUNDS)
    tables = {str(workers): measure(each, workers) for workers in (1, 2, WORKERS)}
    pool = tables[str(WORKERS)]
    result = {
        "programs_per_second_by_workers": tables,
        "programs_each": each * ROUNDS,
        "overhead_ms_per_program": round(1000 / tables["1"]["sandbox"] - 1000 / tables["1"]["process"], 2),
        "ratio_to_plain": round(pool["sandbox"] / pool["plain"], 3),
        "ratio_to_process": round(pool["sandbox"] / pool["process"], 3),
        "isolation": sandbox.isolation(),
        **environment(),
    }
    print(json.dumps(result, indent=1))
    if options.write:
        keep(RECORD, result)


if __name__ == "__main__":
    main()
