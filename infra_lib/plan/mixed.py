"""Mixed precision in a trace: what autocast does to tensors, on a device where PyTorch has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LOWERED = frozenset(
    {
        nn.functional.linear,
        nn.functional.scaled_dot_product_attention,
        torch.addmm,
        torch.baddbmm,
        torch.bmm,
        torch.matmul,
        Tensor.__matmul__,
        Tensor.matmul,
    }
)
"""Functions that take their arguments in the lower type under autocast, as far as decoders call them."""


CHECKPOINT = "_gradient_checkpointing_func"
"""Where a layer of transformers keeps the function that runs it under activation checkpointing."""


class Lowered(TorchFunctionMode):
    """Products of float32 tensors take copies in the lower type, as under ``torch.autocast``.

    A weight's copy is kept for as long as the forward pass runs; anything else is copied for each product.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._copies: dict[nn.Parameter, Tensor] | None = None

    @contextmanager
    def forward_pass(self) -> Iterator[None]:
        """Lower what runs inside, and keep the weights' copies until it is over, as autocast's cache does."""
        self._copies = {}
        try:
            with self:
                yield
        finally:
            self._copies = None

    @contextmanager
    def made_again(self, model: nn.Module) -> Iterator[None]:
        """Lower layers too that run outside of a forward pass: whose activations are made again.

        Autocast is restored there by :func:`torch.utils.checkpoint.checkpoint`, a mode like this is not.
        """
        layers = [module for module in model.modules() if hasattr(module, CHECKPOINT)]
        before = [getattr(layer, CHECKPOINT) for layer in layers]
        for layer, checkpoint in zip(layers, before, strict=True):
            setattr(layer, CHECKPOINT, self._with_lowered(checkpoint))
        try:
            yield
        finally:
            for layer, checkpoint in zip(layers, before, strict=True):
                setattr(layer, CHECKPOINT, checkpoint)

    def _with_lowered(self, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
        def checkpointed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return checkpoint(self._around(function), *args, **kwargs)

        return checkpointed

    def _around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def lowered(*args: Any, **kwargs: Any) -> Any:
            if self._copies is not None:
                return forward(*args, **kwargs)
            with self:
                return forward(*args, **kwargs)

        return lowered

    def __torch_function__(
        self, function: Any, _types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function in LOWERED:
            args = tuple(self._lower(value) for value in args)
            given = {name: self._lower(value) for name, value in given.items()}
        return function(*args, **given)

    def _lower(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if self._copies is None or not isinstance(value, nn.Parameter):
            return value.to(self._dtype)
        if value not in self._copies:
            self._copies[value] = value.to(self._dtype)
        return self._copies[value]
