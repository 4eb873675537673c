"""Count bytes and operations of a step by running it on tensors that have a shape and no storage.

The model is built from its configuration on PyTorch's ``meta`` device, so a plan for
70 billion parameters needs no weights and no memory; the step that is traced is the
library's own code, so the plan cannot drift away from what will run. Decoder layers are
alike, so a deep model is traced with a few of its layers and the rest is a straight line.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForCausalLM

from infra_lib.errors import ModelError
from infra_lib.models import Batch


@dataclass(frozen=True)
class Trace:
    """What one step takes.

    Attributes
    ----------
    peak_bytes
        Most bytes in tensors that the step made, weights and inputs not counted.
    flops
        Floating-point operations of its matrix products, a multiply-add being two.
    """

    peak_bytes: int
    flops: int


class _Counter(TorchDispatchMode):
    """Follow every storage from its making to its end, and count operations as torch's own counter does.

    ``FlopCounterMode`` beside it would hold on to what activation checkpointing makes again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.flops = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):  # made before the step: weights and inputs are not counted
                self._seen.add(leaf.untyped_storage())
        result = function(*args, **(kwargs or {}))
        if count := flop_registry.get(function._overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: Any) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def trace(step: Callable[[], Any]) -> Trace:
    """Run a step on meta tensors and return what it takes."""
    with _Counter() as counter:
        result = step()
    peak = counter.peak
    del result
    return Trace(peak, counter.flops)


def meta_model(config: Any, dtype: torch.dtype) -> Any:
    """Return a causal LM of a configuration on the meta device: shapes and no weights.

    Raises
    ------
    ModelError
        Where transformers knows no causal LM for the configuration.
    """
    own = copy.deepcopy(config)  # transformers writes the type into it
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(own, attn_implementation="eager", dtype=dtype).eval()
    except (ValueError, KeyError) as error:
        raise ModelError(f"no causal LM can be made from this configuration: {error}") from None


def shallow(config: Any, layers: int) -> Any:
    """Return the configuration of the same model with fewer layers."""
    cut = copy.deepcopy(config)
    cut.num_hidden_layers = layers
    if getattr(cut, "layer_types", None):
        cut.layer_types = cut.layer_types[:layers]
    return cut


class Traced:
    """A model whose steps are traced with few layers and carried on to its depth."""

    FEW, MORE = 2, 4

    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        self.depth = int(config.num_hidden_layers)
        depths = (self.FEW, self.MORE) if self.depth > self.MORE else (self.depth,)
        self._models = [meta_model(shallow(config, depth), dtype) for depth in depths]
        self._known: dict[Any, Trace] = {}

    def take(self, key: Any, step: Callable[[Any], Any]) -> Trace:
        """Return what ``step(model)`` takes at full depth; ``key`` names the step and its sizes."""
        if key not in self._known:
            found = []
            for model in self._models:
                found.append(trace(lambda model=model: step(model)))  # type: ignore[misc]
                for parameter in model.parameters():
                    parameter.grad = None
            self._known[key] = found[0] if len(found) == 1 else self._carried_on(*found)
        return self._known[key]

    def _carried_on(self, few: Trace, more: Trace) -> Trace:
        reach = (self.depth - self.FEW) / (self.MORE - self.FEW)
        return Trace(
            int(few.peak_bytes + reach * (more.peak_bytes - few.peak_bytes)),
            int(few.flops + reach * (more.flops - few.flops)),
        )


def meta_batch(rows: int, tokens: int) -> Batch:
    """Return a batch [rows, tokens] on the meta device in which every token carries the loss."""
    ids = torch.zeros(rows, tokens, dtype=torch.long, device="meta")
    return Batch(
        ids,
        torch.ones_like(ids),
        torch.ones_like(ids, dtype=torch.bool),
        ids,
        ids.flatten(),
        tuple(range(rows)),
        (tokens,) * rows,
        (tokens,) * rows,
    )
