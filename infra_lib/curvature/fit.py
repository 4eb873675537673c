"""Fitting factors: covariances, their eigenvectors, and the corrected eigenvalues, a partition at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from infra_lib.curvature.factors import Factors, LayerFactors
from infra_lib.curvature.labels import LABELS, LabelSource
from infra_lib.curvature.layers import captured, model_fingerprint, weight_shape
from infra_lib.curvature.store import load_partition, save_partition
from infra_lib.distributed import add_up, add_up_number, check_same, is_main, is_stored, shard, spread
from infra_lib.errors import NumericalError, ParameterError
from infra_lib.files import digest_of
from infra_lib.models import Batch, Encoded, batches, linears


def fit_factors(
    model: Any,
    encoded: Sequence[Encoded],
    *,
    pad_id: int = 0,
    labels: str = "sampled",
    pattern: str | None = None,
    seed: int = 0,
    batch_tokens: int = 4096,
    memory_bytes: int = 4 * 2**30,
    folder: Path | None = None,
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
        Bytes for factors under construction; layers are fitted in as many partitions as this needs.
    folder
        Where finished partitions are stored; those that are there already are not fitted again.

    Raises
    ------
    ParameterError
        For an unknown kind of labels, no examples, or a budget too small for one layer.
    NumericalError
        Where gradients, factors or eigenvectors are not finite.
    """
    if labels not in LABELS:
        raise ParameterError("factor_labels", labels, f"one of {', '.join(LABELS)}")
    if not encoded:
        raise ParameterError("examples", 0, "at least one example to fit factors on")
    chosen = linears(model, pattern)
    fingerprint = model_fingerprint(model, list(chosen))
    key = digest_of(
        [
            fingerprint,
            labels,
            seed,
            sorted([e.id, e.input_ids.tolist(), int(e.loss_mask.sum())] for e in encoded),
        ]
    )
    check_same(key, "weights or training examples")
    mine = shard(encoded, at_least_one=True).take(encoded)
    groups = batches(mine, batch_tokens=batch_tokens, pad_id=pad_id)
    source = LabelSource(labels, seed, mine)
    layers: dict[str, LayerFactors] = {}
    checks: dict[str, dict[str, float]] = {}
    parts = partitions(chosen, memory_bytes)
    with tqdm(
        total=2 * len(parts) * len(groups),
        desc="fitting factors",
        unit="batch",
        disable=not (progress and is_main()),
    ) as bar:
        # What is stored is read before anything is fitted, so that a torn file is named at once.
        paths = [folder / _file_name(i, key, names) if folder else None for i, names in enumerate(parts)]
        stored = [
            load_partition(path, key, names) if path and is_stored(path) else None
            for path, names in zip(paths, parts, strict=True)
        ]
        for names, path, kept in zip(parts, paths, stored, strict=True):
            if kept is None:
                kept = _fit_partition(model, {n: chosen[n] for n in names}, groups, source, bar.update)
                if path and is_main():
                    save_partition(path, key, *kept)
            else:
                bar.update(2 * len(groups))
            layers |= kept[0]
            checks |= kept[1]
    positions = sum(int(e.loss_mask.sum()) for e in encoded)
    return Factors(layers, fingerprint, len(encoded), positions, checks)


def _file_name(index: int, key: str, names: Sequence[str]) -> str:
    return f"factors-{index:03d}-{digest_of([key, names])[:16]}.safetensors"


def partitions(chosen: Mapping[str, nn.Module], memory_bytes: int) -> list[list[str]]:
    """Return the layers' names in groups whose factors under construction fit ``memory_bytes``."""
    parts: list[list[str]] = []
    room = 0
    for name, module in chosen.items():
        rows, columns = weight_shape(module)
        # A and G with their eigenvectors, Λ and the diagonal, in 4 bytes each.
        need = 4 * (2 * rows * rows + 2 * columns * columns + 2 * rows * columns)
        if need > memory_bytes:
            raise ParameterError("memory_bytes", memory_bytes, f"at least {need} for layer {name} alone")
        if not parts or need > room:
            parts.append([])
            room = memory_bytes
        parts[-1].append(name)
        room -= need
    return parts


def _fit_partition(
    model: Any,
    modules: Mapping[str, nn.Module],
    groups: Sequence[Batch],
    source: LabelSource,
    tick: Callable[[], Any],
) -> tuple[dict[str, LayerFactors], dict[str, dict[str, float]]]:
    covariances, shared = _covariances(model, modules, groups, source, tick)
    found = spread(_eigenbasis_tensors, covariances)
    bases = {key: (values, vectors) for key, (values, vectors, _) in found.items()}
    quality = {key: dict(zip(CHECKS, check.tolist(), strict=True)) for key, (_, _, check) in found.items()}
    layers, checks = {}, {}
    inputs = {name: f"{shared[name]}|in" for name in modules}
    rotations = {name: (bases[inputs[name]][1], bases[f"{name}|out"][1]) for name in modules}
    corrected, diagonal = _second_moments(model, modules, rotations, groups, source, tick)
    for name in modules:
        (s_in, q_in), (s_out, q_out) = bases[inputs[name]], bases[f"{name}|out"]
        layers[name] = LayerFactors(q_in, q_out, s_in, s_out, corrected[name], diagonal[name])
        pair = (quality[inputs[name]], quality[f"{name}|out"])
        checks[name] = {what: max(q[what] for q in pair) for what in pair[0]}
    return layers, checks


def _covariances(
    model: Any,
    modules: Mapping[str, nn.Module],
    groups: Sequence[Batch],
    source: LabelSource,
    tick: Callable[[], Any],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return A and G of every layer, and for each layer the one whose input (and A) it shares."""
    sums: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    positions = 0
    for batch in groups:
        with captured(model, modules) as seen:
            source.backward(model, batch)
        if not shared:
            shared = _shared_inputs(seen)
        # Position t predicts token t + 1: it carries a loss term where the mask of t + 1 is set.
        carries = torch.nn.functional.pad(batch.loss_mask[:, 1:], (0, 1)).to(model.device)
        positions += int(carries.sum())
        for name, (acts_bti, grads_bto) in seen.items():
            if shared[name] == name:
                _add_outer(sums, f"{name}|in", acts_bti[carries])
            _add_outer(sums, f"{name}|out", grads_bto[carries])
        tick()
    add_up(sums[key] for key in sorted(sums))
    positions = add_up_number(positions)
    return {key: total / positions for key, total in sums.items()}, shared


def _add_outer(sums: dict[str, Tensor], key: str, rows_nd: Tensor) -> None:
    product = rows_nd.float().T @ rows_nd.float()
    sums[key] = sums[key].add_(product) if key in sums else product


def _shared_inputs(seen: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, str]:
    """Map each layer to the first layer that was given the very same input tensor (gate and up)."""
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    return {
        name: first.setdefault((acts.data_ptr(), tuple(acts.shape)), name) for name, (acts, _) in seen.items()
    }


def _second_moments(
    model: Any,
    modules: Mapping[str, nn.Module],
    rotations: Mapping[str, tuple[Tensor, Tensor]],
    groups: Sequence[Batch],
    source: LabelSource,
    tick: Callable[[], Any],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the mean squared per-example gradient in the eigenbasis and in the weights' own."""
    corrected = {n: torch.zeros(weight_shape(m), device=model.device) for n, m in modules.items()}
    diagonal = {n: torch.zeros_like(t) for n, t in corrected.items()}
    count = 0
    for batch in groups:
        with captured(model, modules) as seen:
            source.backward(model, batch)
        real = batch.attention_mask.to(model.device).unsqueeze(-1)
        for name, (acts_bti, grads_bto) in seen.items():
            q_in, q_out = rotations[name]
            acts_bti = acts_bti.float() * real
            grads_boi = torch.einsum("bto,bti->boi", grads_bto.float() * real, acts_bti)
            diagonal[name] += grads_boi.square().sum(0)
            corrected[name] += (q_out.T @ grads_boi @ q_in).square().sum(0)
        count += len(batch.rows)
        tick()
    add_up(part for name in modules for part in (corrected[name], diagonal[name]))
    count = add_up_number(count)
    for name in modules:
        for tensor in (corrected[name], diagonal[name]):
            tensor /= count
            if not torch.isfinite(tensor).all():
                raise NumericalError(f"the squared gradients of layer {name} are not finite")
    return corrected, diagonal


CHECKS = ("orthogonality", "residual")


def _eigenbasis_tensors(name: str, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    values, vectors, check = eigenbasis(matrix, name)
    return values, vectors, torch.tensor([check[what] for what in CHECKS])


def eigenbasis(matrix: Tensor, name: str) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return eigenvalues, eigenvectors (columns) and the quality of a symmetric matrix's decomposition.

    It is computed in double precision on the CPU and kept in single precision.

    Raises
    ------
    NumericalError
        Where the matrix or its decomposition is not finite, or the vectors are not orthogonal to 1e-3.
    """
    if not torch.isfinite(matrix).all():
        raise NumericalError(f"covariance {name} is not finite")
    wide = matrix.double().cpu()
    wide = (wide + wide.T) / 2
    values, vectors = torch.linalg.eigh(wide)
    if not (torch.isfinite(values).all() and torch.isfinite(vectors).all()):
        raise NumericalError(f"the eigendecomposition of {name} is not finite")
    kept = vectors.float()
    identity = torch.eye(len(values), dtype=torch.float64)
    orthogonality = float((kept.double().T @ kept.double() - identity).abs().max())
    residual = float(
        (vectors * values @ vectors.T - wide).norm() / wide.norm().clamp(min=torch.finfo(torch.float64).tiny)
    )
    if orthogonality > 1e-3:
        raise NumericalError(f"the eigenvectors of {name} are not orthogonal (off by {orthogonality:.1e})")
    checks = {"orthogonality": orthogonality, "residual": residual}
    return values.clamp(min=0).float().to(matrix.device), kept.to(matrix.device), checks
