"""What a GPU can do: the measured ceilings that stages are held against (`python -m benchmarks.ceilings`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

SIDE = 8192
"""Side of the square products."""


def seconds(work: Callable[[], object], *, repeats: int = 10) -> float:
    """Return the median seconds of some work on the GPU, by device events, after three warm-ups."""
    for _ in range(3):
        work()
    found = []
    for _ in range(repeats):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        stop.record()
        stop.synchronize()
        found.append(start.elapsed_time(stop) / 1e3)
    return sorted(found)[len(found) // 2]


def products() -> dict[str, float]:
    """Return operations per second of a large matrix product on random data, by precision."""
    found = {}
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(SIDE, SIDE, device="cuda").to(dtype) for _ in range(2))
        found[name] = 2 * SIDE**3 / seconds(lambda a=a, b=b: a @ b)
    torch.backends.cuda.matmul.allow_tf32 = False
    return found


def copy_bytes() -> float:
    """Return bytes read and written per second by a large copy on the device."""
    a = torch.randn(2**29, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.numel() * 4 / seconds(lambda: b.copy_(a))


def decompositions(sides: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return seconds of a symmetric eigendecomposition by side and precision, alone and in threads."""
    torch.linalg.eigh(torch.eye(64, device="cuda"))
    found = []
    for side in sides:
        rows = torch.randn(2 * side, side, device="cuda")
        matrix = rows.T @ rows / len(rows)
        for dtype in (torch.float32, torch.float64):
            for threads in (1, 3) if dtype == torch.float32 else (1,):
                part = matrix.to(dtype)
                taken = _decompose(part, threads)
                found.append({"side": side, "dtype": str(dtype)[6:], "threads": threads, "seconds": taken})
    return found


def _decompose(matrix: Tensor, threads: int) -> float:
    def one(_: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.linalg.eigh(matrix)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(threads)))  # each thread makes its handles
        torch.cuda.synchronize()
        start = time.perf_counter()
        list(pool.map(one, range(threads)))
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / threads


def measure(sides: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return all ceilings."""
    return {
        "operations_per_second": products(),
        "copy_bytes_per_second": copy_bytes(),
        "eigendecompositions": decompositions(sides),
    }


if __name__ == "__main__":
    print(json.dumps(measure((1536, 2048, 5632)), indent=1))
