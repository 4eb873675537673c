"""The machine that a plan is made for: memory and speed of one device, and how many there are."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass

import psutil
import torch

from infra_lib.errors import ParameterError
from infra_lib.study import unknown

UTILISATION = 0.4
"""Part of a device's peak that training and scoring reach. Our choice: what well-tuned training reports."""


@dataclass(frozen=True)
class Machine:
    """Devices that share the work.

    Attributes
    ----------
    name
        As a person would say it.
    devices
        How many work side by side.
    memory_bytes
        Of one device.
    half_flops, single_flops
        Peak operations per second of one device, in bfloat16 and in float32 matrix products.
    bandwidth
        Bytes per second between one device and its memory.
    utilisation
        Part of the peak that is reached.
    is_gpu
        Whether these are GPUs, which meet the output head in larger slices.
    """

    name: str
    devices: int
    memory_bytes: int
    half_flops: float
    single_flops: float
    bandwidth: float
    utilisation: float = UTILISATION
    is_gpu: bool = False

    def seconds(self, flops: float, dtype: torch.dtype) -> float:
        """Return the time that ``flops`` operations take on all devices together."""
        peak = self.single_flops if dtype == torch.float32 else self.half_flops
        return flops / (peak * self.utilisation * self.devices)


# Data-sheet figures of dense matrix products; float32 products run as TF32 on these devices.
_GPUS = {
    "h100": ("NVIDIA H100 SXM", 80, 989e12, 494e12, 3.35e12),
    "h200": ("NVIDIA H200", 141, 989e12, 494e12, 4.8e12),
    "a100": ("NVIDIA A100 80 GB", 80, 312e12, 156e12, 2.0e12),
}


def gpu_machine(kind: str = "h100", gpus: int = 1, memory: str | None = None) -> Machine:
    """Return ``gpus`` devices of a kind; ``memory`` (``80GiB``) overrides that of the kind.

    Raises
    ------
    ParameterError
        For an unknown kind, fewer than one device, or a memory that is no size.
    """
    if kind not in _GPUS:
        raise unknown("--gpu", kind, list(_GPUS))
    if gpus < 1:
        raise ParameterError("--gpus", gpus, "1 or more")
    name, gib, half, single, bandwidth = _GPUS[kind]
    size = parse_size("--gpu-memory", memory) if memory else gib * 2**30
    return Machine(f"{gpus} × {name}", gpus, size, half, single, bandwidth, is_gpu=True)


def this_machine(processes: int = 1) -> Machine:
    """Return this machine's CPU, its speed measured by a second of matrix products on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a = torch.randn(768, 768)
        a @ a  # the first product pays for the library's start
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < 0.5:
            a @ a
            count += 1
        speed = 2 * 768**3 * count / (time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    memory = psutil.virtual_memory().total
    name = f"this machine ({processes} of {os.cpu_count()} cores, {memory / 2**30:.0f} GiB)"
    return Machine(name, processes, memory // processes, speed, speed, 1e10)


def parse_size(name: str, text: str) -> int:
    """Return the bytes of a size such as ``80GiB``, ``500MB`` or ``24g``.

    Raises
    ------
    ParameterError
        Naming the option, for a text that is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise ParameterError(name, text, "a size such as 80GiB or 24GB")
    base = 1000 if match[2] and not match[3] and text.strip().lower().endswith("b") else 1024
    return int(float(match[1]) * base ** ("kmgt".index(match[2].lower()) + 1 if match[2] else 0))


def count(number: int) -> str:
    """Return a number of parameters in words."""
    return f"{number / 1e9:.3g} billion" if number >= 1e9 else f"{number / 1e6:.3g} million"


def gib(size: float) -> str:
    """Return bytes in words."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale or unit == "MiB":
            return f"{size / scale:.3g} {unit}" if size < 1000 * scale else f"{size / scale:,.0f} {unit}"
    return ""


def duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
