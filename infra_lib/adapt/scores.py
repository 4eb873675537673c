"""Scores behind a page: influence at three levels, cosines of gradients beside it, and what was read.

All is kept in the folder of the scores with what it depends on, and used again while that holds. Factors are
kept by themselves, so that an attribution which was cut off goes on behind them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from infra_lib.adapt.parameters import AdaptParameters
from infra_lib.adapt.results import RECORD, TABLES, Results, load_results
from infra_lib.attribute import Inputs, attribute, read_inputs
from infra_lib.attributes import score_table
from infra_lib.checksums import damage
from infra_lib.closure import code_digest
from infra_lib.errors import DataError
from infra_lib.files import digest_of, file_digest, read_sealed, replacing, write_sealed
from infra_lib.influence import target_gradient
from infra_lib.method.sweeps import scores_along
from infra_lib.models import Encoded, linears, load_model, load_tokenizer, model_config, weight_files
from infra_lib.pretrained import readable_config
from infra_lib.provenance import versions


@dataclass(frozen=True)
class Read:
    """What the plan needs to know: the examples in tokens, and the model's configuration."""

    inputs: Inputs
    config: Any


def read(parameters: AdaptParameters) -> Read:
    """Read both files and the model's configuration, without the weights.

    Raises
    ------
    DataError, ModelError
        Naming the file and line, or what of the model is missing.
    """
    config = readable_config(parameters.model)
    inputs = read_inputs(
        parameters.train,
        parameters.target,
        load_tokenizer(parameters.model),
        context=getattr(config.get_text_config(), "max_position_embeddings", None),
        skip_bad=parameters.skip_bad,
        max_tokens=parameters.max_tokens or None,
    )
    return Read(inputs, config)


def attributed(parameters: AdaptParameters, *, progress: bool = True) -> Results:
    """Return the scores, computed where they are not kept already.

    Raises
    ------
    InfraError
        As :func:`infra_lib.attribute.attribute` does.
    """
    depends = dependencies(parameters)
    if not is_kept(parameters, depends):
        started = time.perf_counter()
        attribute(parameters.options(), progress=progress)
        found = read(parameters)
        with replacing(parameters.scores / "gradcos.parquet") as temporary:
            cosine_table(parameters, found.inputs).to_parquet(temporary, index=False)
        record = {
            "depends": depends,
            "model": parameters.model,
            "seconds": round(time.perf_counter() - started, 1),
            "read": counts(found.inputs),
            "skipped": len(found.inputs.skipped),
            "files": {name: file_digest(parameters.scores / name) for name in TABLES},
        }
        write_sealed(parameters.scores / RECORD, record)
    return load_results(parameters.scores, parameters.train, parameters.target)


def dependencies(parameters: AdaptParameters) -> dict[str, str]:
    """Return digests of all that the scores depend on."""
    values = {k: v for k, v in parameters.effective.items() if k not in ("shown", "model", "data")}
    return {
        "parameters": digest_of(values),
        "training examples": file_digest(parameters.train),
        "targets": file_digest(parameters.target),
        "model": _model_digest(parameters.model),
        "library": code_digest("infra_lib.attribute", "infra_lib.adapt.scores"),
        "versions": digest_of(versions()),
    }


def is_kept(parameters: AdaptParameters, depends: Mapping[str, str]) -> bool:
    """Return whether the scores that are there are these."""
    try:
        record = read_sealed(parameters.scores / RECORD)
    except (OSError, DataError):
        return False
    return record["depends"] == depends and not damage(parameters.scores, record["files"])


def _model_digest(model: str) -> str:
    folder = Path(model)
    if not folder.is_dir():
        return str(getattr(model_config(model), "_commit_hash", None) or model)
    paths = [*weight_files(folder), *folder.glob("*.json"), *folder.glob("*.jinja")]
    return digest_of({path.name: file_digest(path) for path in paths})


def counts(inputs: Inputs) -> list[dict[str, Any]]:
    """Return what was read of each file and domain: examples, tokens, and what was cut."""
    found = []
    by_domain: dict[str, list[Encoded]] = {}
    for example, row in zip(inputs.train, inputs.encoded, strict=True):
        by_domain.setdefault(example.domain, []).append(row)
    for file, groups in (("training", by_domain), ("target", inputs.targets)):
        for domain, rows in sorted(groups.items()):
            found.append({"file": file, "domain": domain, "examples": len(rows), **_tokens(rows)})
    return found


def _tokens(rows: Sequence[Encoded]) -> dict[str, int]:
    return {
        "tokens": sum(len(row.input_ids) for row in rows),
        "response_tokens": sum(row.n_tokens for row in rows),
        "cut_examples": sum(row.truncated > 0 for row in rows),
        "cut_tokens": sum(row.truncated for row in rows),
    }


def cosine_table(parameters: AdaptParameters, inputs: Inputs) -> pd.DataFrame:
    """Return the cosine of each example's gradient with each target's, as a table of scores.

    It is what influence would be without curvature and without the size of gradients; each example's
    gradient is formed once and met with all targets.
    """
    model = load_model(parameters.model, device=parameters.device)
    pad = load_tokenizer(parameters.model).pad_token_id or 0
    names = list(linears(model, None))
    size: dict[str, Any] = {"pad_id": pad, "batch_tokens": parameters.batch_tokens}
    gradients = {
        target: target_gradient(model, names, rows, **size) for target, rows in inputs.targets.items()
    }
    along = {("identity", 0.0, target): gradient for target, gradient in gradients.items()}
    dots, norms = scores_along(model, inputs.encoded, along, **size)
    lengths = {
        target: float(np.sqrt(sum(float(part.double().square().sum()) for part in gradient.values())))
        for target, gradient in gradients.items()
    }
    cosines = {
        target: np.divide(values, norms * lengths[target], out=np.zeros_like(values), where=norms > 0)
        for (_, _, target), values in dots.items()
    }
    return score_table(cosines, inputs.train, [row.n_tokens for row in inputs.encoded])
