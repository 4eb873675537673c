"""Factors on disk: one safetensors file per partition, whole or absent, memory-mapped back layer by layer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from infra_lib.checksums import checksum_path, forget_checksum, is_intact, write_checksum
from infra_lib.curvature.factors import LayerFactors
from infra_lib.errors import DataError, ModelError
from infra_lib.files import replacing

_FIELDS = ("q_in", "q_out", "s_in", "s_out", "corrected", "diagonal")


class StoredLayers(Mapping[str, LayerFactors]):
    """Layers of a stored partition: each is mapped when it is asked for, and belongs to who asked.

    Nothing stays in memory here, so that walking through all layers takes the room of one.
    """

    def __init__(self, path: Path, keys: Mapping[str, Mapping[str, str]]) -> None:
        self._path, self._keys = path, keys

    def __getitem__(self, name: str) -> LayerFactors:
        fields = self._keys[name]
        with safe_open(self._path, framework="pt") as stored:
            return LayerFactors(**{field: stored.get_tensor(key) for field, key in fields.items()})

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class PartitionWriter:
    """Stores partitions; those of a GPU are written by a thread while the next one is fitted.

    Factors leave the GPU at once, through pinned memory, so that there is room for the next partition; one
    partition at a time waits to be written. Those of the CPU are written before :meth:`save` returns, since
    their memory is what the next partition needs. Leaving the context waits for what is being written.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Wait for what is being written, and raise what went wrong."""
        try:
            self._wait()
        finally:
            self._pool.shutdown()

    def save(
        self, path: Path, key: str, layers: Mapping[str, LayerFactors], checks: Mapping[str, dict[str, float]]
    ) -> None:
        """Store a partition's factors and checks under the key of what they depend on.

        What layers share (A of gate and up) is stored once.
        """
        tensors, keys = _packed(layers)
        metadata = {"key": key, "checks": json.dumps(checks), "layers": json.dumps(keys)}
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        self._wait()
        tensors = {name: _on_cpu(tensor) for name, tensor in tensors.items()}
        if not on_gpu:
            _write(path, tensors, metadata)
            return
        torch.cuda.synchronize()
        self._pending = self._pool.submit(_write, path, tensors, metadata)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def save_partition(
    path: Path, key: str, layers: Mapping[str, LayerFactors], checks: Mapping[str, dict[str, float]]
) -> None:
    """Store one partition and wait for it; see :meth:`PartitionWriter.save`."""
    with PartitionWriter() as writer:
        writer.save(path, key, layers, checks)


def _on_cpu(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU; one of a GPU is on its way there, in pinned memory."""
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _packed(layers: Mapping[str, LayerFactors]) -> tuple[dict[str, Tensor], dict[str, dict[str, str]]]:
    """Return tensors by key, each once, and for each layer its fields' keys."""
    tensors: dict[str, Tensor] = {}
    keys: dict[str, dict[str, str]] = {}
    first: dict[int, str] = {}
    for name, layer in layers.items():
        keys[name] = {}
        for field in _FIELDS:
            if (tensor := getattr(layer, field)) is None:
                continue
            keys[name][field] = first.setdefault(tensor.data_ptr(), f"{name}|{field}")
            if keys[name][field] == f"{name}|{field}":
                tensors[f"{name}|{field}"] = tensor.contiguous()
    return tensors, keys


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    # An older file's checksum would make this one look torn, were the process killed before the next.
    forget_checksum(path)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    write_checksum(path)


def load_partition(
    path: Path, key: str, names: Sequence[str], *, written_here: bool = False
) -> tuple[Mapping[str, LayerFactors], dict[str, dict[str, float]]] | None:
    """Return a stored partition, memory-mapped, or None where there is none, or one without a checksum.

    The checksum is written last: who was killed before it did not finish, and fits again.

    Parameters
    ----------
    written_here
        This process has just written it: its bytes are not read again for their checksum.

    Raises
    ------
    ModelError
        For factors of another model or other data.
    """
    if not (path.is_file() and checksum_path(path).is_file()):
        return None
    # A changed byte is an error and no reason to fit again in silence: somebody should look at the disk.
    if not written_here and not is_intact(path):
        raise DataError(path, "is a torn factor file, or was changed; delete it and it is fitted again")
    try:
        with safe_open(path, framework="pt") as stored:
            metadata, found = stored.metadata() or {}, set(stored.keys())
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise DataError(path, f"is a torn factor file ({error}); delete it and it is fitted again") from None
    if metadata.get("key") != key:
        raise ModelError(f"{path} holds factors of another model or other data")
    keys = json.loads(metadata["layers"])
    if list(keys) != list(names) or not {k for part in keys.values() for k in part.values()} <= found:
        raise DataError(path, "lacks factors of some layers; delete it and it is fitted again")
    return StoredLayers(path, keys), json.loads(metadata["checks"])
