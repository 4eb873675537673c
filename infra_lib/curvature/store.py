"""Factors on disk: one safetensors file per partition, whole or absent, memory-mapped back layer by layer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from infra_lib.checksums import is_intact, write_checksum
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


def save_partition(
    path: Path, key: str, layers: Mapping[str, LayerFactors], checks: Mapping[str, dict[str, float]]
) -> None:
    """Store a partition's factors and checks under the key of what they depend on.

    What layers share (A of gate and up) is stored once.
    """
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
                tensors[f"{name}|{field}"] = tensor.contiguous().cpu()
    metadata = {"key": key, "checks": json.dumps(checks), "layers": json.dumps(keys)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    write_checksum(path)


def load_partition(
    path: Path, key: str, names: Sequence[str]
) -> tuple[Mapping[str, LayerFactors], dict[str, dict[str, float]]] | None:
    """Return a stored partition, memory-mapped, or None where there is none.

    Raises
    ------
    ModelError
        For factors of another model or other data.
    """
    if not path.is_file():
        return None
    # A changed byte is an error and no reason to fit again in silence: somebody should look at the disk.
    if not is_intact(path):
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
