"""Finished runs: their key, reading one back, and putting one in place.

A finished run is a folder with a ``run.json`` that names everything it depends on; a
folder without one is never mistaken for a finished run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra_lib.checksums import damage, folder_digests
from infra_lib.closure import code_digest
from infra_lib.errors import DataError, ModelError
from infra_lib.examples import Example
from infra_lib.files import digest_of, file_digest, read_sealed, replace_folder, write_sealed
from infra_lib.finetune.config import FinetuneConfig
from infra_lib.models import model_config, weight_files


def run_key(
    base: str | Path, examples: Sequence[Example], weights: Sequence[float], config: FinetuneConfig, seed: int
) -> str:
    """Return a digest of everything that the trained weights depend on.

    The number of processes is not part of it: it changes the weights by rounding only.
    """
    rows = [(ex.prompt, ex.response, round(w, 12)) for ex, w in zip(examples, weights, strict=True)]
    return digest_of(
        {
            "base": model_identity(base),
            "rows": rows,
            "config": asdict(config),
            "seed": seed,
            "code": code_digest("infra_lib.finetune"),
        }
    )


def model_identity(base: str | Path) -> str:
    """Return the digest of a model folder's weights, or a hub name with the commit that it stands for.

    Raises
    ------
    ModelError
        For a hub name that is absent, gated, or out of reach.
    """
    if Path(base).is_dir():
        return weights_digest(Path(base))
    try:
        config = model_config(base)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"cannot get {base} from the hub: {reason}; give a local folder, or download it first "
            f"(hf download {base}), with a token if it is gated"
        ) from None
    return f"{base}@{getattr(config, '_commit_hash', None)}"


def weights_digest(folder: Path) -> str:
    """Return one digest of a folder's weights: of the file, or of all shards in order."""
    digests = [file_digest(path) for path in weight_files(folder)]
    return digests[0] if len(digests) == 1 else digest_of(digests)


def read_finished(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the record of a finished run in ``folder``, or None without a whole one of this key."""
    try:
        record = read_sealed(folder / "run.json")
    except (OSError, DataError):
        return None
    return record if record["key"] == key and not damage(folder, record["files"]) else None


def put_in_place(final: Path, folder: Path, record: dict[str, Any]) -> None:
    """Complete the record of the model saved in ``final`` and move it to ``folder`` in one step."""
    sums = {"weights_sha256": weights_digest(final), "files": folder_digests(final)}
    write_sealed(final / "run.json", record | sums)
    replace_folder(final, folder)
