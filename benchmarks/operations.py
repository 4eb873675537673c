"""Operations that a stage must do and the fewest bytes that it must move: what speed is held against.

A multiply and an add count as two operations. Only products count: norms, activation functions and
softmax do not, though they take time. Bytes are the weights, directions and factors read and written
once, and the layers' inputs and outputs; what stays on the chip in an ideal program is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.setting import Size


@dataclass(frozen=True)
class Work:
    """Operations, and bytes moved at the least."""

    operations: float
    bytes: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.bytes


def attention_weights(size: Size) -> int:
    """Return the weights of a layer's attention."""
    width = size.hidden // size.heads * size.kv_heads
    return 2 * size.hidden * size.hidden + 2 * size.hidden * width


def mlp_weights(size: Size) -> int:
    """Return the weights of a layer's MLP."""
    return 3 * size.hidden * size.inner


def _scores_and_mix(size: Size) -> float:
    """Return operations per token of q kᵀ and P v in a layer, of which a causal token needs half."""
    return 2 * 2 * size.tokens * size.hidden / 2


def forward(size: Size, sequences: int) -> Work:
    """Return the work of a plain forward pass, without the output head."""
    tokens = sequences * size.tokens
    weights = attention_weights(size) + mlp_weights(size)
    operations = tokens * size.layers * (2 * weights + _scores_and_mix(size))
    return Work(operations, size.layers * (2 * weights + 2 * _states(size) * tokens))


def token_scores(size: Size, sequences: int, targets: int) -> Work:
    """Return the work of the forward-mode pass, without the output head.

    For each target, a linear layer multiplies its weight by the input's derivative, and an MLP's also the
    direction by the input; attention differentiates q kᵀ (two products) and P v (two).
    """
    tokens = sequences * size.tokens
    weights = attention_weights(size) + mlp_weights(size)
    primal = 2 * weights + _scores_and_mix(size)
    moved = 2 * (weights + mlp_weights(size)) + 2 * _scores_and_mix(size)
    operations = tokens * size.layers * (primal + targets * moved)
    parts = 2 * (weights + targets * mlp_weights(size)) + 2 * (1 + targets) * _states(size) * tokens
    return Work(operations, size.layers * parts)


def fit(size: Size, sequences: int, partitions: int) -> Work:
    """Return the work of fitting in partitions, without eigendecompositions and the output head.

    Each partition takes a forward and a backward pass (activations' gradients only) for its covariances
    and one for its Λ. One triangle is summed of A (shared by gate and up) and of G; rows are rotated
    before they are multiplied, or their product after, whichever is cheaper.
    """
    tokens = sequences * size.tokens
    weights = attention_weights(size) + mlp_weights(size)
    passes = 2 * partitions * (3 * _scores_and_mix(size) + 4 * weights)
    outer = 2 * size.hidden**2 + 3 * size.inner**2
    layers = [(size.inner, size.hidden)] * 2 + [(size.hidden, size.inner)]
    moments = sum(min(_rotated_rows(*shape), _rotated_product(*shape, size.tokens)) for shape in layers)
    factors = 4 * (2 * size.hidden**2 + 3 * size.inner**2 + mlp_weights(size))
    moved = 8 * partitions * weights + 3 * factors + 8 * partitions * _states(size) * tokens
    return Work(tokens * size.layers * (passes + outer + moments), size.layers * moved)


def _rotated_rows(rows: int, columns: int) -> float:
    return 2 * (rows**2 + columns**2 + rows * columns)


def _rotated_product(rows: int, columns: int, tokens: int) -> float:
    return 2 * (rows * columns + rows * columns * (rows + columns) / tokens)


def _states(size: Size) -> float:
    """Return the numbers per token that a layer must read and write: its input, and each linear's."""
    return 2 * (2 * size.hidden + size.inner)
