"""A GPU for machines without one: code takes its GPU's path, numbers come from the CPU.

Tensors of :class:`OnGpu` say that they are on ``cuda:0`` and hold a CPU tensor, on which everything is
computed. So results are real, and what would go wrong on a GPU, or make the host wait for it, can be seen:

* what mixes tensors of both devices raises, as on a GPU;
* whatever hands numbers from the device to the host before they are there is put on a list of *waits*,
  with the place in our code or in transformers that asked for it;
* so is a copy to the device from memory that is not pinned, which waits as well.

What no CPU can tell (kernels, streams, speed, memory) is not simulated.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2"}
"""Operations whose result, or its shape, the host needs before it can go on."""


class OnGpu(Tensor):
    """A tensor that says it is on a GPU. To PyTorch's C++ it is on ``meta``, for which no driver is asked."""

    inner: Tensor
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGpu:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
            requires_grad=inner.requires_grad,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"OnGpu({self.inner!r})"

    def tolist(self) -> Any:
        """Return numbers, for which the host waits."""
        SimulatedGpu.current().waits["tolist", _asker()] += 1
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return SimulatedGpu.current().compute(func, args, kwargs or {})


class SimulatedGpu(TorchDispatchMode):
    """While it is entered, ``device="cuda"`` makes tensors of :class:`OnGpu`.

    Attributes
    ----------
    waits
        How often the host would have waited, by operation and by the place that asked.
    """

    _active: SimulatedGpu | None = None

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()

    @classmethod
    def current(cls) -> SimulatedGpu:
        """Return the one that is entered."""
        if cls._active is None:
            raise RuntimeError("a tensor of the simulated GPU was used outside of it")
        return cls._active

    def __enter__(self) -> SimulatedGpu:
        SimulatedGpu._active = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        SimulatedGpu._active = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(leaf, OnGpu) for leaf in tree_leaves((args, kwargs))) or _is_gpu(kwargs):
            return self.compute(func, args, kwargs)
        return func(*args, **kwargs)

    def compute(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute on the CPU what was asked of the GPU, and note whether the host would have waited."""
        name = func._schema.name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here, there = _split(tensors)
        to = kwargs.get("device")
        if here and (self._waits(name, args, kwargs) or (to is not None and not _is_gpu(kwargs))):
            self.waits[name, _asker()] += 1
        if not here and there and not kwargs.get("non_blocking"):
            self.waits[f"{name} from pageable memory", _asker()] += 1
        moves = to is not None or name in ("copy_", "_to_copy")
        if here and not moves and there and not name.startswith("index"):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        own, options = tree_map(_inner, (args, kwargs))
        if to is not None:
            options["device"] = torch.device("cpu")
        if name == "_efficientzerotensor":  # of forward mode; it has no memory that could be wrapped
            options.pop("layout", None)
            result = torch.zeros(*own, **options)
        else:
            result = func(*own, **options)
        if name == "copy_" and not isinstance(args[0], OnGpu):
            return args[0]
        if not (here if to is None else _is_gpu(kwargs)):
            return result
        wrapped = tree_map(lambda leaf: OnGpu(leaf) if isinstance(leaf, Tensor) else leaf, result)
        return wrapped if to is not None else return_and_correct_aliasing(func, args, kwargs, wrapped)

    @staticmethod
    def _waits(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
        if name == "copy_":
            return not isinstance(args[0], OnGpu) and not (kwargs.get("non_blocking") or True in args[2:])
        if name in ("index", "index_put", "index_put_"):
            return any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])
        if name == "repeat_interleave":
            return kwargs.get("output_size") is None
        return name in READS


def to_simulated_gpu(model: nn.Module) -> nn.Module:
    """Move a model's weights and buffers there, in place; weights that are shared stay shared."""
    moved: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                own = nn.Parameter(OnGpu(weight.detach().clone()), requires_grad=weight.requires_grad)
                module._parameters[name] = moved.setdefault(id(weight), own)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = OnGpu(value.clone())
    return model


@contextmanager
def simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedGpu]:
    """Enter a simulated GPU, without what only a real one has: its driver, streams, pinned memory, Triton."""

    class Event:
        """Knows of the device on whose stream it was recorded, and of no other."""

        device: torch.device | None = None

        def record(self, stream: torch.device) -> None:
            self.device = stream

        def synchronize(self) -> None:
            assert self.device == CUDA

    torch._C._ensureCUDADeviceGuardSet()
    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self, *_: self)
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: empty(*a, **k))
    monkeypatch.setattr("infra_lib.attention.rule.is_usable", lambda _query: False)
    monkeypatch.setattr(
        "infra_lib.distributed.work._in_streams",
        lambda work, matrices: {name: work(name, matrices.pop(name)) for name in list(matrices)},
    )
    with SimulatedGpu() as gpu:
        yield gpu


def _split(tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    here = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    # What a function transform wraps says meta, and numbers are tensors of no dimension.
    return here, [t for t in tensors if not isinstance(t, OnGpu) and t.device.type == "cpu" and t.dim()]


def _is_gpu(kwargs: dict[str, Any]) -> bool:
    # Inside a function transform the wrapped tensor's device is what C++ sees: meta.
    return kwargs.get("device") is not None and torch.device(kwargs["device"]).type in ("cuda", "meta")


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, OnGpu) else leaf


def _asker() -> str:
    """Return the innermost place in our code or in transformers' that is on the stack."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if {"infra_lib", "transformers"} & set(path.parts):
            return f"{path.name}:{frame.name}"
    return "a test"
