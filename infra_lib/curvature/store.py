"""Factors on disk: one safetensors file per partition, whole or absent, memory-mapped back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from infra_lib.checksums import is_intact, write_checksum
from infra_lib.curvature.factors import LayerFactors
from infra_lib.errors import ModelError
from infra_lib.files import replacing

_FIELDS = ("q_in", "q_out", "s_in", "s_out", "corrected", "diagonal")


def save_partition(
    path: Path, key: str, layers: Mapping[str, LayerFactors], checks: Mapping[str, dict[str, float]]
) -> None:
    """Store a partition's factors and checks under the key of what they depend on."""
    tensors = {
        f"{name}|{part}": getattr(layer, part).contiguous().cpu().clone()
        for name, layer in layers.items()
        for part in _FIELDS
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"key": key, "checks": json.dumps(checks)})
    write_checksum(path)


def load_partition(
    path: Path, key: str, names: Sequence[str]
) -> tuple[dict[str, LayerFactors], dict[str, dict[str, float]]] | None:
    """Return a stored partition, memory-mapped, or None where there is none, or one that is torn or changed.

    Raises
    ------
    ModelError
        For factors of another model or other data.
    """
    if not path.is_file():
        return None
    if not is_intact(path):
        tqdm.write(f"{path.name} is torn, or changed since it was written; its layers are fitted again")
        return None
    with safe_open(path, framework="pt") as stored:
        metadata = stored.metadata() or {}
        if metadata.get("key") != key:
            raise ModelError(f"{path} holds factors of another model or other data")
        layers = {
            name: LayerFactors(*(stored.get_tensor(f"{name}|{part}") for part in _FIELDS)) for name in names
        }
    return layers, json.loads(metadata["checks"])
