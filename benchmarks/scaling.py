"""How much faster several processes attribute than one (`python -m benchmarks.scaling`).

Every process takes a shard of the examples (:mod:`infra_lib.distributed`), with one thread on a CPU or a
device of its own. Beside that stands what the machine itself allows: as many processes that know nothing of
each other, each with the whole work. Where these take longer than one alone, memory and caches are shared,
and no division of the work could be faster. They begin together; their steps may drift apart a little.

========================  ==========================================================================
what                      seconds are of
========================  ==========================================================================
``one``                   one process with the whole work
``together``              processes that share the work, by gloo on a CPU and NCCL on GPUs; the slowest
``side by side``          processes with the whole work each, at the same time; the slowest
========================  ==========================================================================
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import needs_gpu
from benchmarks.records import RECORDS, command_of, keep
from benchmarks.setting import GPU_SIZES, SIZES, TARGETS, Size, make_data, make_model
from infra_lib.curvature import fit_factors
from infra_lib.distributed import add_up_number, is_main, process_group
from infra_lib.files import write_json
from infra_lib.influence import position_scores, token_scores
from infra_lib.models import mlp_linears
from infra_lib.provenance import driver, environment

RECORD = RECORDS / "benchmarks" / "scaling.json"
WHAT = ("one", "together", "side by side")
CHOSEN = {
    "tiny": replace(SIZES["tiny"], repeats=1),
    "medium": replace(SIZES["medium"], train=64, repeats=3),
    "135m": replace(GPU_SIZES["135m"], repeats=3),
}


def work(size: Size, device: str) -> dict[str, float]:
    """Do the whole attribution, or this process's share of it, and return the seconds of each step."""
    if device == "cpu":
        torch.set_num_threads(1)
    model = make_model(size, device=device)
    if device != "cpu":
        model = model.bfloat16()
    train, _ = make_data(size)
    options: dict[str, Any] = {"batch_tokens": size.batch * size.tokens, "progress": False}
    weights = {name: model.get_submodule(name).weight for name in mlp_linears(model)}
    directions = {target: {n: torch.randn_like(w) for n, w in weights.items()} for target in TARGETS}
    steps: dict[str, Callable[[Sequence[Any]], object]] = {
        "fitting factors": lambda rows: fit_factors(model, rows, **options),
        "token scores": lambda rows: token_scores(model, rows, directions, **options),
        "position scores": lambda rows: position_scores(model, rows, directions, **options),
    }
    for step in steps.values():
        step(train[: 2 * size.batch])  # what is loaded lazily is loaded now
    found = {}
    for name, step in steps.items():
        add_up_number(0)  # all begin together
        start = time.perf_counter()
        step(train)
        add_up_number(0)  # and the slowest counts
        if device != "cpu":
            torch.cuda.synchronize()
        found[name] = time.perf_counter() - start
    return found


def start(size: str, device: str, processes: int, out: Path, number: int = 0) -> subprocess.Popen[bytes]:
    """Start ``torchrun`` with so many processes, which leave their seconds in ``out``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(processes), "-m", "benchmarks.scaling", "--device", device, "--size", size]
    chosen = {"OMP_NUM_THREADS": "1"}
    if device != "cpu" and processes == 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        chosen["CUDA_VISIBLE_DEVICES"] = (
            visible[number] if number < len(visible) and visible[0] else str(number)
        )
    return subprocess.Popen([*command, "--worker", str(out)], env={**os.environ, **chosen})


def seconds_of(size: str, device: str, groups: Sequence[int]) -> dict[str, float]:
    """Run groups of processes at the same time and return each step's seconds, those of the slowest group."""
    with tempfile.TemporaryDirectory(prefix="infra-scaling-") as folder:
        outs = [Path(folder) / f"{number}.json" for number in range(len(groups))]
        running = [
            start(size, device, group, out, k)
            for k, (group, out) in enumerate(zip(groups, outs, strict=True))
        ]
        ended = [process.wait() for process in running]
        if any(ended):
            raise SystemExit("a process of the benchmark failed; its words are above")
        found = [json.loads(out.read_text(encoding="utf-8")) for out in outs]
    return {step: max(each[step] for each in found) for step in found[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--size", choices=list(CHOSEN), help="default: medium, or 135m on GPUs")
    parser.add_argument("--out", type=Path, help="the record to write")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    name = options.size or ("medium" if options.device == "cpu" else "135m")
    size = CHOSEN[name]
    if options.worker:
        with process_group(options.device) as device:
            found = work(size, device)
            if is_main():
                write_json(options.worker, found)
        return
    needs_gpu(options.device, "--device cpu --size tiny")
    there = torch.cuda.device_count() if options.device == "cuda" else os.cpu_count() or 1
    if not 2 <= options.processes <= there:
        raise SystemExit(
            f"--processes is {options.processes}; it must be 2 to {there}, what this machine has"
        )
    groups = {"one": [1], "together": [options.processes], "side by side": [1] * options.processes}
    runs = []
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for repeat in range(size.repeats):
        for what in WHAT:
            for step, seconds in seconds_of(name, options.device, groups[what]).items():
                runs.append({"what": what, "step": step, "repeat": repeat, "seconds": seconds})
                print(f"{step:18}{what:14}{seconds:9.2f} s", flush=True)
    record = {
        "environment": environment(options.device),
        "driver": driver(),
        "started": started,
        "command": command_of("benchmarks.scaling", given),
        "settings": {
            "size": asdict(size),
            "name": name,
            "processes": options.processes,
            "threads": 1,
            "dtype": "float32" if options.device == "cpu" else "bfloat16",
        },
        "runs": runs,
    }
    default = RECORD if options.device == "cpu" else RECORDS / "gpu" / "scaling.json"
    keep(options.out or default, record)
    print(f"recorded in {options.out or default}")


if __name__ == "__main__":
    main()
