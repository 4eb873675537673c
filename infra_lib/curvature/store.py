"""Factors on disk: one safetensors file per partition, whole or absent, memory-mapped back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from infra_lib.curvature.factors import LayerFactors
from infra_lib.errors import DataError, ModelError
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


def load_partition(
    path: Path, key: str, names: Sequence[str]
) -> tuple[dict[str, LayerFactors], dict[str, dict[str, float]]] | None:
    """Return a stored partition, memory-mapped, or None where there is none.

    Raises
    ------
    ModelError
        For factors of another model or other data.
    DataError
        For a torn file.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("key") != key:
                raise ModelError(f"{path} holds factors of another model or other data")
            layers = {
                name: LayerFactors(*(stored.get_tensor(f"{name}|{part}") for part in _FIELDS))
                for name in names
            }
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise DataError(path, f"is a torn factor file ({error}); delete it and it is fitted again") from None
    return layers, json.loads(metadata["checks"])
