r"""Influence scores: how much up-weighting a training example raises a target.

With f the target (mean log-likelihood of correct responses), ∇f its gradient and H the
damped curvature of the training loss, the preconditioned direction of a layer is

    V = Q_G [ (Q_Gᵀ ∇f Q_A) / (Λ + λ) ] Q_Aᵀ,    λ = damping × mean(Λ),

and the influence of the loss term of token t is the directional derivative

    score_t = ⟨V, ∇_θ log p(y_t | y_<t)⟩,

so that a positive score means: training more on this raises f. Scores of a sentence and
of an example are sums of their tokens'. Scores are in units of the target (nats) per unit
of weight in a loss that is the *mean over examples* of the summed token loss; dividing by
the number of training examples N estimates the change of f when an example's weight goes
from 1 to 2.

Two readings of a token's influence exist, and they are different things whose sums over
an example agree:

``loss``
    The loss *term* of the token, by forward-mode differentiation along V: one pass scores
    every token (:func:`token_scores`).
``position``
    The token's *position*: what its activations contribute to the example's gradient,
    Σ_layers δ_tᵀ V a_t (:func:`position_scores`), as Grosse et al. (2023, section 2.2) plot it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from infra_lib.attention import forward_attention, fused_attention
from infra_lib.curvature import Factors, check_met, model_fingerprint, out_by_in, watched
from infra_lib.device import first_not_finite, read_back, to_device
from infra_lib.distributed import add_up, is_main, shard
from infra_lib.errors import ModelError, NumericalError, ParameterError
from infra_lib.models import Batch, Encoded, batches
from infra_lib.responses import (
    has_plain_head,
    log_prob_gradient,
    pull_through_head,
    response_log_probs,
    response_logits,
    response_states,
)

Direction = Mapping[str, Tensor]
"""One tensor [out, in] per layer name."""


SUMS_SHARE = 0.2
"""Share of a GPU's memory up to which the float32 sums of a gradient stay on it."""


def target_gradient(
    model: Any,
    names: Sequence[str],
    targets: Sequence[Encoded],
    *,
    pad_id: int = 0,
    per_token: bool = False,
    batch_tokens: int = 4096,
    offload: bool = False,
) -> dict[str, Tensor]:
    """Return ∇f, one tensor [out, in] per layer, f the mean over examples of the response log-likelihood.

    Parameters
    ----------
    names
        Layers to differentiate by.
    targets
        Correct responses.
    per_token
        Use each example's mean over tokens instead of its sum.
    offload
        Sum on the CPU where the sums, in float32, would take much of a GPU's memory (:data:`SUMS_SHARE`).

    Raises
    ------
    ParameterError
        For no target examples.
    ModelError
        For a layer that a text does not pass once, or whose output is not used.
    NumericalError
        For a gradient that is zero or not finite.
    """
    if not targets:
        raise ParameterError("target", 0, "at least one correct response")
    modules = dict(model.named_modules())
    weights = [modules[name].weight for name in names]
    home = _home_of_sums(sum(map(Tensor.numel, weights)), model.device) if offload else model.device
    totals = {
        name: torch.zeros_like(weight, dtype=torch.float32, device=home)
        for name, weight in zip(names, weights, strict=True)
    }
    check_met(model, {name: modules[name] for name in names}, targets[0])
    plain = has_plain_head(model, targets[0])
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [weight.grad for weight in weights]

    reached: set[int] = set()

    def add(weight: Tensor, own: Sequence[Tensor]) -> None:
        grad = cast("Tensor", weight.grad).to(home).float()
        for total in own:
            total.add_(grad, alpha=1 / len(targets))
        weight.grad = None
        reached.add(id(weight))

    hooks = []
    try:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        distinct = list({id(weight): weight for weight in weights}.values())  # layers may share one
        for weight in distinct:
            weight.requires_grad_(True)
            weight.grad = None
            own = [totals[name] for name, other in zip(names, weights, strict=True) if other is weight]
            # A layer's gradient is let go before the next one comes.
            hooks.append(weight.register_post_accumulate_grad_hook(partial(add, own=own)))
        mine = shard(targets).take(targets)
        for batch in batches(mine, batch_tokens=batch_tokens, pad_id=pad_id):
            _backward(model, batch.to(model.device), plain, per_token=per_token, weights=distinct)
            for name, weight in zip(names, weights, strict=True):
                if id(weight) not in reached:
                    raise ModelError(f"no gradient reaches layer {name}: what it gives is not used")
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)
        for weight, grad in zip(weights, before, strict=True):
            weight.grad = grad
    add_up(totals.values())
    gradient = {name: out_by_in(modules[name], total) for name, total in totals.items()}
    norm = float(torch.stack([part.square().sum() for part in gradient.values()]).double().sum())
    if not np.isfinite(norm) or norm == 0:
        raise NumericalError(f"the target's gradient has squared norm {norm}; it must be finite and above 0")
    return gradient


def _home_of_sums(weights: int, device: torch.device) -> torch.device:
    """Return where a gradient by so many weights is summed."""
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    return torch.device("cpu") if memory and not sums_stay(weights, memory) else device


def sums_stay(weights: int, memory_bytes: int) -> bool:
    """Return whether a gradient by so many weights is summed on a GPU with so much memory."""
    return 4 * weights <= SUMS_SHARE * memory_bytes


def moved(direction: Direction, device: str) -> dict[str, Tensor]:
    """Return a direction on a device; parts that are there already are not copied."""
    return {name: part.to(device) for name, part in direction.items()}


def precondition(
    factors: Factors,
    gradient: Direction,
    *,
    damping: float = 0.1,
    method: str = "ekfac",
    dtype: torch.dtype | None = None,
    device: str | None = None,
) -> dict[str, Tensor]:
    """Return V = (H + λ)⁻¹ ∇f per layer, for one target; see :func:`precondition_all`."""
    options: dict[str, Any] = {"damping": damping, "method": method, "dtype": dtype, "device": device}
    return precondition_all(factors, {"": gradient}, **options)[""]


def precondition_all(
    factors: Factors,
    gradients: Mapping[str, Direction],
    *,
    damping: float = 0.1,
    method: str = "ekfac",
    dtype: torch.dtype | None = None,
    device: str | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Return V = (H + λ)⁻¹ ∇f by target and layer, λ = damping × the layer's mean eigenvalue.

    A layer's factors are read once for all targets.

    Parameters
    ----------
    factors
        Of the model whose gradients these are: no model is at hand here, so only layers are compared.
        :func:`check_model` compares the weights.
    gradients
        Target name to gradient.
    method
        ``ekfac``, ``kfac``, ``diagonal`` or ``identity`` (see :mod:`infra_lib.curvature`).
    dtype
        Of the result: a model below single precision needs no more than its own. None keeps the gradient's.
    device
        Where the products are taken and the result is; None: where the gradient is.

    Raises
    ------
    ParameterError
        For a damping that is not above 0.
    ModelError
        For a gradient with layers that the factors do not have.
    """
    if not damping > 0 or not np.isfinite(damping):
        raise ParameterError("damping", damping, "a finite number above 0")
    names = list(dict.fromkeys(name for gradient in gradients.values() for name in gradient))
    if missing := [name for name in names if name not in factors.layers]:
        raise ModelError(f"the factors have no layer {missing[0]}; fit them on the same layers")
    directions: dict[str, dict[str, Tensor]] = {target: {} for target in gradients}
    for name in names:
        own = {t: gradient[name].to(device) for t, gradient in gradients.items() if name in gradient}
        like = next(iter(own.values()))
        values, basis = factors.damped(name, method, damping, like)
        for target, grad in own.items():
            if basis is None:
                direction = grad / values
            else:
                q_out, q_in = basis
                direction = q_out @ ((q_out.T @ grad @ q_in) / values) @ q_in.T
            directions[target][name] = direction.to(dtype or grad.dtype)
    for own in directions.values():
        if bad := first_not_finite(own):
            raise NumericalError(f"the preconditioned direction of layer {bad} is not finite")
    return directions


def token_scores(
    model: Any,
    encoded: Sequence[Encoded],
    directions: Mapping[str, Direction],
    *,
    pad_id: int = 0,
    batch_tokens: int = 4096,
    progress: bool = True,
) -> dict[str, list[np.ndarray]]:
    """Score every response token of every example on every target: the loss-term reading.

    One forward-mode pass (``torch.func.jvp``) per batch; targets share its primal computation, and the
    output head and softmax are met once for all of them, at the positions that predict a response token.

    Parameters
    ----------
    model
        Loaded with eager attention, which forward-mode differentiation supports.
    directions
        Target name to preconditioned direction.

    Returns
    -------
    dict
        Target name to one array [loss-carrying tokens] per example, in the order of ``encoded``.
    """
    names = list(next(iter(directions.values())))
    modules = dict(model.named_modules())
    weights = {f"model.{name}.weight": modules[name].weight.detach() for name in names}
    tangents = {
        f"model.{name}.weight": torch.stack(
            [out_by_in(modules[name], part[name]).to(modules[name].weight) for part in directions.values()]
        )
        for name in names
    }
    part = shard(encoded)
    scores: dict[str, list[np.ndarray]] = {target: [np.empty(0)] * len(part.rows) for target in directions}
    groups = batches(part.take(encoded), batch_tokens=batch_tokens, pad_id=pad_id)
    plain = has_plain_head(model, encoded[0])
    scorer = _Scorer(model, response_states if plain else response_logits)
    finish = _through_head if plain else _log_prob_derivative

    def derive(batch: Batch) -> Tensor:
        """Return the derivatives [targets, loss terms] of a batch."""

        def forward(values: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(scorer, values, (batch,))

        def derivative(tangent: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            return torch.func.jvp(forward, (weights,), (tangent,))[:2]

        with torch.no_grad(), forward_attention(model, batch):
            # The stub of vmap knows no None among several outputs; the documentation does.
            mapped = torch.func.vmap(derivative, out_dims=(None, 0))  # type: ignore[arg-type]
            primal, tangent = mapped(tangents)
        return finish(model, primal, tangent, batch)

    shown = tqdm(groups, desc="scoring tokens", unit="batch", disable=not (progress and is_main()))
    for derived, batch in read_back((derive(batch.to(model.device)), batch) for batch in shown):
        for k, target in enumerate(scores):
            for row, values in batch.by_row(derived[k]):
                scores[target][row] = values
    scores = part.gather(scores)
    _check(scores)
    return scores


class _Scorer(torch.nn.Module):
    """States or logits [loss terms, width] as a module's output, which functional_call asks for."""

    def __init__(self, model: Any, forward: Callable[[Any, Batch], Tensor]) -> None:
        super().__init__()
        self.model, self._forward = model, forward

    def forward(self, batch: Batch) -> Tensor:
        return self._forward(self.model, batch)


def _through_head(model: Any, states: Tensor, tangents: Tensor, batch: Batch) -> Tensor:
    """Return d log p_y [targets, loss terms] from the head's inputs and their derivatives.

    From there on positions do not mix: one backward pass through the head gives ∂ log p_y / ∂ state for
    every position at once, the same for all targets, where forward mode would go through a vocabulary's
    worth of logits once for each.

    Parameters
    ----------
    states
        [loss terms, hidden].
    tangents
        [targets, loss terms, hidden].
    """
    labels = batch.labels
    pulled = pull_through_head(model, states, lambda logits, where: log_prob_gradient(logits, labels[where]))
    wide = torch.promote_types(pulled.dtype, torch.float32)
    return torch.stack([(moved.to(wide) * pulled.to(wide)).sum(-1) for moved in tangents]).float()


@torch.no_grad()
def _log_prob_derivative(_model: Any, logits: Tensor, tangents: Tensor, batch: Batch) -> Tensor:
    """Return d log p_y = dz_y − Σ_v p_v dz_v [targets, loss terms] from logits z and their derivatives.

    For models that change the head's values: by a soft cap, say.

    Parameters
    ----------
    logits
        [loss terms, vocabulary]; the probabilities are computed once for all targets.
    tangents
        [targets, loss terms, vocabulary].
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    probs = torch.softmax(logits.to(wide), dim=-1)
    labels = batch.labels
    return torch.stack(
        [
            part.gather(-1, labels.unsqueeze(-1)).squeeze(-1).to(wide) - (probs * part).sum(-1)
            for part in tangents
        ]
    ).float()


def _backward(
    model: Any,
    batch: Batch,
    plain: bool,
    *,
    per_token: bool = False,
    weights: Sequence[Tensor] | None = None,
) -> None:
    """Run forward and backward of a batch's summed (or per-token mean) log-likelihoods."""
    # Counted on the host: the device need not be asked how many shares there are.
    counts = torch.tensor(batch.terms)
    shares = (1 / counts if per_token else torch.ones(len(counts))).repeat_interleave(counts)
    share = to_device(shares, batch.input_ids.device)
    if not plain:
        torch.autograd.backward((response_log_probs(model, batch) * share).sum(), inputs=weights)
        return
    labels = batch.labels
    with fused_attention(model, batch):
        states = response_states(model, batch)

    def gradient(logits: Tensor, where: slice) -> Tensor:
        return log_prob_gradient(logits, labels[where]).mul_(share[where].unsqueeze(-1))

    torch.autograd.backward(states, pull_through_head(model, states, gradient), inputs=weights)


def position_scores(
    model: Any,
    encoded: Sequence[Encoded],
    directions: Mapping[str, Direction],
    *,
    pad_id: int = 0,
    batch_tokens: int = 4096,
    progress: bool = True,
) -> dict[str, list[np.ndarray]]:
    """Score every *position* of every example on every target: the position reading.

    One forward and backward pass per batch; per position Σ_layers −δ_tᵀ V a_t is contracted without
    forming a per-position gradient.

    Returns
    -------
    dict
        Target name to one array [tokens] per example (prompt positions too, since they carry gradient).
    """
    names = list(next(iter(directions.values())))
    modules = dict(model.named_modules())
    chosen = {name: modules[name] for name in names}
    plain = has_plain_head(model, encoded[0])
    part = shard(encoded)
    scores: dict[str, list[np.ndarray]] = {target: [np.empty(0)] * len(part.rows) for target in directions}
    groups = batches(part.take(encoded), batch_tokens=batch_tokens, pad_id=pad_id)

    def derive(batch: Batch) -> Tensor:
        """Return the scores [targets, padded positions] of a batch."""
        totals = torch.zeros(len(directions), batch.input_ids.numel(), device=model.device)
        inputs: dict[str, Tensor] = {}

        def contract(name: str, grads: Tensor) -> None:
            acts = inputs.pop(name).flatten(0, -2)
            for total, direction in zip(totals, directions.values(), strict=True):
                pulled = acts @ direction[name].to(acts).T
                # Below float32 the sum must not be rounded to the model's type before it is added.
                wide = torch.promote_types(pulled.dtype, torch.float32)
                total += (pulled * grads.flatten(0, -2)).sum(-1, dtype=wide)

        # Contracted as the backward pass meets each layer: one layer's rows in memory, not all of them.
        with watched(model, chosen, inputs.__setitem__, contract):
            _backward(model, batch, plain)
        return totals

    shown = tqdm(groups, desc="scoring positions", unit="batch", disable=not (progress and is_main()))
    for totals, batch in read_back((derive(batch.to(model.device)), batch) for batch in shown):
        real = batch.attention_mask.bool().numpy()
        for k, target in enumerate(directions):
            values = totals[k].reshape(real.shape)
            for i, row in enumerate(batch.rows):
                scores[target][row] = values[i][real[i]]
    scores = part.gather(scores)
    _check(scores)
    return scores


def example_scores(token_level: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """Return example scores [examples] per target: sums over the tokens."""
    return {
        target: np.array([float(values.sum(dtype=np.float64)) for values in rows])
        for target, rows in token_level.items()
    }


def span_of_tokens(
    offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]], text: str = ""
) -> np.ndarray:
    """Return the span to which each token belongs [tokens].

    A token belongs to the span that holds the first of its characters that is no white space: most
    tokenizers begin a word's token with the space in front, which is the sentence before's. Tokens of
    white space alone go by their first character, and so do all where no text is given; tokens at or
    after the last span's end (an end token) belong to the last span.

    Parameters
    ----------
    text
        What offsets and spans count characters of.
    """
    starts = np.array([start for start, _ in spans])
    return (np.searchsorted(starts, first_characters(offsets, text), side="right") - 1).clip(min=0)


def first_characters(offsets: Sequence[tuple[int, int]], text: str) -> list[int]:
    """Return where each token's first character stands that is no white space; else its first character."""
    first = []
    for start, end in offsets:
        piece = text[start:end]
        first.append(start + (len(piece) - len(piece.lstrip()) if piece.strip() else 0))
    return first


def sum_over_spans(
    values: np.ndarray,
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    text: str = "",
) -> np.ndarray:
    """Return the sum of token scores in each character span [spans].

    Each token is in one span (:func:`span_of_tokens`), so that the sums over all spans give the example's
    score.
    """
    return np.bincount(span_of_tokens(offsets, spans, text), weights=values, minlength=len(spans))


def response_positions(row: Encoded, values: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the prompt's share of position scores, and those of the response's tokens [tokens].

    A response token takes the value of the position that predicts it; what is left (the prompt before
    its last position, the sequence's last token) is the prompt's share.
    """
    first = int(row.loss_mask.nonzero()[0])
    own = values[first - 1 : first - 1 + row.n_tokens]
    return float(values.sum(dtype=np.float64) - own.sum(dtype=np.float64)), own


def check_model(factors: Factors, model: Any) -> None:
    """Raise where factors were fitted on other weights than the model's.

    Raises
    ------
    ModelError
        Saying so.
    """
    if model_fingerprint(model) != factors.fingerprint:
        raise ModelError("these factors belong to another model; fit them on this one")


def _check(scores: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Raise for scores that are not finite, all zero, or all equal."""
    for target, rows in scores.items():
        values = np.concatenate(rows)
        if not np.isfinite(values).all():
            raise NumericalError(f"influence scores on {target} are not finite")
        if not values.any():
            raise NumericalError(f"influence scores on {target} are all zero")
        if values.size > 1 and (values == values[0]).all():
            raise NumericalError(f"influence scores on {target} are all equal")
