"""Fitting factors: covariances, their eigenvectors, and the corrected eigenvalues, a partition at a time."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from infra_lib.checksums import checksum_path
from infra_lib.curvature.eigen import eigenbasis
from infra_lib.curvature.factors import Factors, LayerFactors
from infra_lib.curvature.labels import LABELS, LabelSource
from infra_lib.curvature.layers import check_met, model_fingerprint, watched, weight_shape
from infra_lib.curvature.moments import Positions, mirror
from infra_lib.curvature.passes import CovariancePass, KeptRows, MomentPass
from infra_lib.curvature.store import PartitionWriter, load_partition
from infra_lib.device import first_not_finite, moment_products
from infra_lib.distributed import add_up, add_up_number, check_same, is_main, is_stored, shard, spread
from infra_lib.errors import DataError, NumericalError, ParameterError
from infra_lib.files import digest_of
from infra_lib.models import Batch, Encoded, batches, linears
from infra_lib.responses import has_plain_head

_Fitted = tuple[Mapping[str, LayerFactors], dict[str, dict[str, float]]]
"""Layers of a partition, and the checks of their eigendecompositions."""


def fit_factors(
    model: Any,
    encoded: Sequence[Encoded],
    *,
    pad_id: int = 0,
    labels: str = "sampled",
    pattern: str | None = None,
    seed: int = 0,
    batch_tokens: int = 4096,
    memory_bytes: int = 2 * 2**30,
    diagonal: bool = False,
    folder: Path | None = None,
    replace_torn: bool = False,
    progress: bool = True,
) -> Factors:
    """Fit factors of a model's linear layers on training examples.

    Parameters
    ----------
    encoded
        Training examples; the order and the batches they fall into do not matter.
    labels
        ``sampled`` from the model (true Fisher) or ``empirical`` (the data's own).
    pattern
        Regular expression over layer names; None takes the MLPs.
    seed
        Of the sampled labels. Each example has a stream of its own, (seed, id).
    batch_tokens
        Padded tokens per batch.
    memory_bytes
        Bytes for factors under construction; layers are fitted in as many partitions as this needs. What
        a partition leaves keeps rows of the first pass for the second. The graph of one batch comes on top.
    diagonal
        Fit the mean squared gradient in the weights' own basis too, for ``method="diagonal"``.
    folder
        Where finished partitions are stored; those that are there already are not fitted again. Their
        factors are mapped into memory only when they are used.
    replace_torn
        Fit a partition again whose file is torn or was changed, with a word, instead of raising.

    Raises
    ------
    ParameterError
        For an unknown kind of labels, no examples, or a budget too small for one layer.
    ModelError
        For a layer that a text does not pass once.
    DataError
        For a stored partition that is torn, unless ``replace_torn``.
    NumericalError
        Where gradients, factors or eigenvectors are not finite.
    """
    if labels not in LABELS:
        raise ParameterError("factor_labels", labels, f"one of {', '.join(LABELS)}")
    if not encoded:
        raise ParameterError("examples", 0, "at least one example to fit factors on")
    chosen = linears(model, pattern)
    check_met(model, chosen, encoded[0])
    fingerprint = model_fingerprint(model)
    key = digest_of(
        [
            fingerprint,
            _settings(model),
            list(chosen),
            labels,
            seed,
            diagonal,
            sorted([e.id, e.input_ids.tolist(), int(e.loss_mask.sum())] for e in encoded),
        ]
    )
    check_same(key, "weights or training examples")
    mine = shard(encoded, at_least_one=True).take(encoded)
    groups = batches(mine, batch_tokens=batch_tokens, pad_id=pad_id)
    source = LabelSource(labels, seed, mine, plain_head=has_plain_head(model, encoded[0]))
    layers: list[Mapping[str, LayerFactors]] = []
    checks: dict[str, dict[str, float]] = {}
    parts = partitions(chosen, memory_bytes, diagonal=diagonal)
    with tqdm(
        total=2 * len(parts) * len(groups),
        desc="fitting factors",
        unit="batch",
        disable=not (progress and is_main()),
    ) as bar:
        # What is stored is read before anything is fitted, so that a torn file is named at once.
        paths = [folder / _file_name(i, key, names) if folder else None for i, names in enumerate(parts)]
        stored = [
            _stored(path, key, names, replace_torn=replace_torn) if path else None
            for path, names in zip(paths, parts, strict=True)
        ]
        with PartitionWriter() as writer:
            for i, (names, path) in enumerate(zip(parts, paths, strict=True)):
                if stored[i] is not None:
                    bar.update(2 * len(groups))
                    continue
                modules = {n: chosen[n] for n in names}
                room = memory_bytes - sum(construction_bytes(module, diagonal) for module in modules.values())
                kept = _fit_partition(model, modules, groups, source, bar.update, room, diagonal)
                if path is None:
                    stored[i] = kept
                elif is_main():
                    writer.save(path, key, *kept)
                del kept  # what is stored is mapped from there, once all are
    for part, path, names in zip(stored, paths, parts, strict=True):
        found = part or (_stored(path, key, names, written_here=True) if path else None)
        if found is None:
            raise DataError(path or "factors", "was written a moment ago and is gone")
        layers.append(found[0])
        checks |= found[1]
    positions = sum(int(e.loss_mask.sum()) for e in encoded)
    joined: Mapping[str, LayerFactors] = ChainMap(*reversed(layers))  # type: ignore[arg-type]
    return Factors(joined, fingerprint, len(encoded), positions, checks)


def _settings(model: Any) -> dict[str, Any]:
    """Return what a model's configuration says of its computations: weights alone do not tell of it all."""
    told = json.loads(model.config.to_json_string(use_diff=False))
    apart = ("transformers_version", "dtype", "torch_dtype", "architectures", "use_cache")
    return {name: value for name, value in told.items() if name not in apart and not name.startswith("_")}


def _stored(
    path: Path, key: str, names: Sequence[str], *, replace_torn: bool = False, written_here: bool = False
) -> _Fitted | None:
    # The checksum is written last, so that a file without one is not finished.
    if not (is_stored(path) and is_stored(checksum_path(path))):
        return None
    try:
        return load_partition(path, key, names, written_here=written_here)
    except DataError as error:
        if not replace_torn:
            raise
        tqdm.write(f"{path} {error.problem.partition(';')[0]}; its layers are fitted again")
        return None


def _file_name(index: int, key: str, names: Sequence[str]) -> str:
    return f"factors-{index:03d}-{digest_of([key, names])[:16]}.safetensors"


def partitions(
    chosen: Mapping[str, nn.Module], memory_bytes: int, *, diagonal: bool = False
) -> list[list[str]]:
    """Return the layers' names in groups whose factors under construction fit ``memory_bytes``."""
    needs = {name: construction_bytes(module, diagonal) for name, module in chosen.items()}
    for name, need in needs.items():
        if need > memory_bytes:
            raise ParameterError("memory_bytes", memory_bytes, f"at least {need} for layer {name} alone")
    return layer_groups(needs, memory_bytes)


def layer_groups(needs: Mapping[str, int], memory_bytes: int) -> list[list[str]]:
    """Return layers' names, in order, in groups whose bytes fit ``memory_bytes``, or of one layer."""
    groups: list[list[str]] = []
    room = 0
    for name, need in needs.items():
        if not groups or need > room:
            groups.append([])
            room = memory_bytes
        groups[-1].append(name)
        room -= need
    return groups


def construction_bytes(module: nn.Module, diagonal: bool) -> int:
    """Return the bytes of a layer's factors: A and G, whose places their eigenvectors take, and Λ.

    A decomposition takes some more, of one matrix at a time, while no graph is held: a plan counts it.
    """
    rows, columns = weight_shape(module)
    return 4 * (rows * rows + columns * columns + (2 if diagonal else 1) * rows * columns)


def _fit_partition(
    model: Any,
    modules: Mapping[str, nn.Module],
    groups: Sequence[Batch],
    source: LabelSource,
    tick: Callable[[], Any],
    room: int = 0,
    diagonal: bool = False,
) -> _Fitted:
    kept = KeptRows(room, modules)
    with moment_products(model.dtype):
        covariances, shared = _covariances(model, modules, groups, source, tick, kept)
    found = spread(_eigenbasis_tensors, covariances)
    bases = {key: (values, vectors) for key, (values, vectors, _) in found.items()}
    quality = {key: dict(zip(CHECKS, check.tolist(), strict=True)) for key, (_, _, check) in found.items()}
    layers, checks = {}, {}
    inputs = {name: f"{shared[name]}|in" for name in modules}
    rotations = {name: (bases[inputs[name]][1], bases[f"{name}|out"][1]) for name in modules}
    with moment_products(model.dtype):
        corrected, plain = _second_moments(
            model, modules, rotations, groups, source, tick, kept, shared, diagonal
        )
    for name in modules:
        (s_in, q_in), (s_out, q_out) = bases[inputs[name]], bases[f"{name}|out"]
        layers[name] = LayerFactors(q_in, q_out, s_in, s_out, corrected[name], plain.get(name))
        pair = (quality[inputs[name]], quality[f"{name}|out"])
        checks[name] = {what: max(q[what] for q in pair) for what in pair[0]}
    return layers, checks


def _covariances(
    model: Any,
    modules: Mapping[str, nn.Module],
    groups: Sequence[Batch],
    source: LabelSource,
    tick: Callable[[], Any],
    kept: KeptRows,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return A and G of every layer, and for each layer the one whose input (and A) it shares."""
    sums: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    positions = 0
    for number, batch in enumerate(groups):
        where = Positions.of(batch, model.device)
        observer = CovariancePass(sums, shared, where, kept.open(number, len(where.real)))
        with watched(model, modules, observer.on_input, observer.on_gradient):
            source.backward(model, batch)
        positions += len(where.predicting)
        tick()
    add_up(sums[key] for key in sorted(sums))
    positions = add_up_number(positions)
    return {key: mirror(total).div_(positions) for key, total in sums.items()}, shared


def _second_moments(
    model: Any,
    modules: Mapping[str, nn.Module],
    rotations: Mapping[str, tuple[Tensor, Tensor]],
    groups: Sequence[Batch],
    source: LabelSource,
    tick: Callable[[], Any],
    kept: KeptRows,
    shared: Mapping[str, str],
    diagonal: bool,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the mean squared per-example gradient in the eigenbasis and, if asked, in the weights' own."""
    corrected = {n: torch.zeros(weight_shape(m), device=model.device) for n, m in modules.items()}
    plain = {n: torch.zeros_like(t) for n, t in corrected.items()} if diagonal else {}
    count = 0
    for number, batch in enumerate(groups):
        where = Positions.of(batch, model.device)
        observer = MomentPass(corrected, plain, rotations, where)
        if rows := kept.take(number):
            observer.replay(rows, shared)
        else:
            with watched(model, modules, observer.on_input, observer.on_gradient):
                source.backward(model, batch)
        count += len(batch.rows)
        tick()
    add_up([*corrected.values(), *plain.values()])
    count = add_up_number(count)
    for total in (*corrected.values(), *plain.values()):
        total.div_(count)
    if bad := first_not_finite(corrected):
        raise NumericalError(f"the squared gradients of layer {bad} are not finite")
    return corrected, plain


CHECKS = ("orthogonality", "residual")


def _eigenbasis_tensors(name: str, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    values, vectors, check = eigenbasis(matrix, name)
    return values, vectors, torch.tensor([check[what] for what in CHECKS])
