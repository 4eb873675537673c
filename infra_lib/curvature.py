r"""Curvature of the loss: eigenvalue-corrected Kronecker factors (EK-FAC) of linear layers.

For a linear layer with weight W [out, in], inputs a_t [in] and gradients
δ_t = ∂(Σ loss)/∂(output_t) [out], the Gauss–Newton matrix (for log-likelihood losses the
Fisher) is approximated in the eigenbasis of two small matrices:

==========  ============  =============================================================
symbol      shape         what
==========  ============  =============================================================
A           [in, in]      mean of a_t a_tᵀ over loss-carrying positions, = Q_A S_A Q_Aᵀ
G           [out, out]    mean of δ_t δ_tᵀ over the same positions, = Q_G S_G Q_Gᵀ
Λ           [out, in]     mean over examples of (Q_Gᵀ g_i Q_A)², g_i the example's gradient
==========  ============  =============================================================

Labels are *sampled from the model* by default, which makes this the true Fisher and not
the empirical one. The family has simpler members: ``kfac`` replaces Λ by the outer
product of eigenvalues S_G S_Aᵀ (times the mean number of positions per example),
``diagonal`` uses the mean squared gradient in the weights' own basis, and ``identity``
no curvature at all.

Source: George et al. 2018 (arXiv 1806.03884); Grosse et al. 2023 (arXiv 2308.03296), section 2.2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers.pytorch_utils import Conv1D

from infra_lib.errors import DataError, ModelError, NumericalError, ParameterError
from infra_lib.files import digest_of, replacing
from infra_lib.models import Batch, Encoded, batches, linears, select_log_probs

METHODS = ("ekfac", "kfac", "diagonal", "identity")
LABELS = ("sampled", "empirical")


# --- Layers ------------------------------------------------------------------------------


def weight_shape(module: nn.Module) -> tuple[int, int]:
    """Return (out, in) of a linear layer; GPT-2's Conv1D stores its weight as [in, out]."""
    weight: Any = module.weight
    rows, columns = weight.shape
    return (int(columns), int(rows)) if isinstance(module, Conv1D) else (int(rows), int(columns))


def out_by_in(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a tensor of the weight's shape as [out, in] (its own inverse)."""
    return weight.T if isinstance(module, Conv1D) else weight


def model_fingerprint(model: Any, names: Sequence[str]) -> str:
    """Return a digest of the values of the named layers' weights."""
    modules = dict(model.named_modules())
    digest = hashlib.sha256()
    for name in names:
        weight = modules[name].weight.detach()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(weight.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# --- Factors -----------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerFactors:
    """Factors of one layer.

    Attributes
    ----------
    q_in, q_out
        Eigenvectors Q_A [in, in] and Q_G [out, out], in columns.
    s_in, s_out
        Eigenvalues of A [in] and G [out].
    corrected
        Λ [out, in], in the eigenbasis.
    diagonal
        Mean squared per-example gradient in the weights' own basis [out, in].
    """

    q_in: Tensor
    q_out: Tensor
    s_in: Tensor
    s_out: Tensor
    corrected: Tensor
    diagonal: Tensor


@dataclass(frozen=True)
class Factors:
    """Factors of a set of layers, with what they belong to.

    Attributes
    ----------
    layers
        By layer name.
    fingerprint
        Of the weights at which they were fitted.
    examples, positions
        How many they rest on.
    checks
        Per layer: largest deviation of QᵀQ from the identity, and relative residual of the
        reconstruction Q S Qᵀ, each the worse of the two factors.
    """

    layers: Mapping[str, LayerFactors]
    fingerprint: str
    examples: int
    positions: int
    checks: Mapping[str, dict[str, float]] = field(default_factory=dict)

    def eigenvalues(self, name: str, method: str) -> Tensor:
        """Return the curvature's eigenvalues [out, in] of a layer under a method of :data:`METHODS`."""
        layer = self.layers[name]
        if method == "ekfac":
            return layer.corrected
        if method == "kfac":
            return torch.outer(layer.s_out, layer.s_in) * (self.positions / self.examples)
        if method == "diagonal":
            return layer.diagonal
        if method == "identity":
            return torch.ones_like(layer.corrected)
        raise ParameterError("method", method, f"one of {', '.join(METHODS)}")


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
    groups = batches(encoded, batch_tokens=batch_tokens, pad_id=pad_id)
    source = _Labels(labels, seed, encoded)
    layers: dict[str, LayerFactors] = {}
    checks: dict[str, dict[str, float]] = {}
    parts = partitions(chosen, memory_bytes)
    with tqdm(
        total=2 * len(parts) * len(groups), desc="fitting factors", unit="batch", disable=not progress
    ) as bar:
        for index, names in enumerate(parts):
            path = (
                folder / f"factors-{index:03d}-{digest_of([key, names])[:16]}.safetensors" if folder else None
            )
            kept = _load_partition(path, key, names) if path else None
            if kept is None:
                kept = _fit_partition(model, {n: chosen[n] for n in names}, groups, source, bar.update)
                if path:
                    _save_partition(path, key, *kept)
            else:
                bar.update(2 * len(groups))
            layers |= kept[0]
            checks |= kept[1]
    positions = sum(int(e.loss_mask.sum()) for e in encoded)
    return Factors(layers, fingerprint, len(encoded), positions, checks)


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


# --- One partition -----------------------------------------------------------------------


def _fit_partition(
    model: Any,
    modules: Mapping[str, nn.Module],
    groups: Sequence[Batch],
    source: _Labels,
    tick: Callable[[], Any],
) -> tuple[dict[str, LayerFactors], dict[str, dict[str, float]]]:
    covariances, shared = _covariances(model, modules, groups, source, tick)
    bases: dict[str, tuple[Tensor, Tensor]] = {}
    quality: dict[str, dict[str, float]] = {}
    for key, matrix in covariances.items():
        values, vectors, check = eigenbasis(matrix, key)
        bases[key], quality[key] = (values, vectors), check
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
    source: _Labels,
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
    source: _Labels,
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
    for name in modules:
        for tensor in (corrected[name], diagonal[name]):
            tensor /= count
            if not torch.isfinite(tensor).all():
                raise NumericalError(f"the squared gradients of layer {name} are not finite")
    return corrected, diagonal


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


@contextmanager
def captured(model: Any, modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Record (input [batch, tokens, in], output gradient [batch, tokens, out]) of layers in a backward pass.

    No gradient of a weight is computed: parameters are frozen for the duration, and the embedding's
    output starts the graph.
    """
    shape: list[int] = []
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def start(_m: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        shape[:] = output.shape[:2]
        return output.detach().requires_grad_(True)

    handles = [model.get_input_embeddings().register_forward_hook(start)]
    for name, module in modules.items():

        def forward(_m: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
            # OPT hands its MLPs all positions in one row; views bring back [batch, tokens, …].
            acts = inputs[0].detach().view(*shape, -1)

            def keep(grad: Tensor) -> None:
                seen[name] = (acts, grad.detach().reshape(*shape, -1))

            output.register_hook(keep)

        handles.append(module.register_forward_hook(forward))
    frozen = [p for p in model.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)


class _Labels:
    """The labels behind the factors: sampled from the model, or the data's own."""

    def __init__(self, kind: str, seed: int, encoded: Sequence[Encoded]) -> None:
        self._kind, self._seed, self._encoded = kind, seed, encoded

    def backward(self, model: Any, batch: Batch) -> None:
        """Run forward and backward of the batch's summed loss under these labels."""
        batch = batch.to(model.device)
        logits = model(**batch.inputs, use_cache=False).logits
        if self._kind == "sampled":
            batch = Batch(
                self._sample(logits.detach(), batch),
                batch.attention_mask,
                batch.loss_mask,
                batch.position_ids,
                batch.rows,
            )
        (-select_log_probs(logits, batch).sum()).backward()

    @torch.no_grad()
    def _sample(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return token ids with the loss-carrying ones drawn from the model, by inverse distribution."""
        uniform = torch.zeros(batch.loss_mask.shape)
        mask = batch.loss_mask.cpu()
        for i, row in enumerate(batch.rows):
            uniform[i, mask[i]] = torch.from_numpy(self._uniform(row)).float()
        cumulative = torch.softmax(logits[:, :-1].double(), dim=-1).cumsum(-1)
        wanted = uniform[:, 1:, None].to(cumulative) * cumulative[..., -1:]
        drawn = torch.searchsorted(cumulative, wanted).squeeze(-1).clamp(max=logits.shape[-1] - 1)
        ids = batch.input_ids.clone()
        ids[:, 1:] = torch.where(batch.loss_mask[:, 1:], drawn, ids[:, 1:])
        return ids

    def _uniform(self, row: int) -> np.ndarray:
        """Return one uniform number per loss term of an example, from its own stream."""
        example = self._encoded[row]
        digest = hashlib.sha256(f"{self._seed}/{example.id}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big")).random(int(example.loss_mask.sum()))


# --- Storage -----------------------------------------------------------------------------

_FIELDS = ("q_in", "q_out", "s_in", "s_out", "corrected", "diagonal")


def _save_partition(
    path: Path, key: str, layers: Mapping[str, LayerFactors], checks: Mapping[str, dict[str, float]]
) -> None:
    tensors = {
        f"{name}|{part}": getattr(layer, part).contiguous().cpu().clone()
        for name, layer in layers.items()
        for part in _FIELDS
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"key": key, "checks": json.dumps(checks)})


def _load_partition(
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
    except SafetensorError as error:
        raise DataError(path, f"is a torn factor file ({error}); delete it and it is fitted again") from None
    return layers, json.loads(metadata["checks"])
