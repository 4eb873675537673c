"""Which examples go through the model together: steps, micro-batches, padded and packed rows.

A *step* takes ``batch_size`` examples at random. It is cut into one *micro-batch* per
process and accumulation, the same examples per step however many processes there are.
The Trainer's data set has rows of examples, its sampler yields micro-batches (tuples of
indices), and accelerate deals micro-batch k to process k mod P.

A micro-batch is padded to a rectangle, or *packed*: its examples stand one after the other
in a single row, without an attention mask. Position ids start at 0 with each example;
transformers reads that as a block-diagonal causal mask (eager, SDPA, flex) or as the
sequence lengths of variable-length flash attention, so no token sees another example.
:func:`check_packing` proves it for the model at hand before training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from infra_lib.errors import ParameterError
from infra_lib.models import Encoded

IGNORED = -100
"""Label of a token without a loss term, as transformers and PyTorch use it."""

Row = dict[str, Any]
Group = tuple[int, ...]


class Rows(torch.utils.data.Dataset):
    """Encoded examples with labels and weights; an index is a micro-batch of them."""

    def __init__(self, encoded: Sequence[Encoded], weights: Sequence[float]) -> None:
        self.rows: list[Row] = [
            {
                "input_ids": row.input_ids,
                "labels": torch.where(row.loss_mask, row.input_ids, IGNORED),
                "weights": torch.full((len(row.input_ids),), float(weight)),
            }
            for row, weight in zip(encoded, weights, strict=True)
        ]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [len(row["input_ids"]) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, group: Group) -> list[Row]:
        return [self.rows[index] for index in group]


class MicroBatches(torch.utils.data.Sampler[Group]):
    """The micro-batches of an epoch, as tuples of example indices; other steps every epoch.

    Batches are drawn at random. (Batches of like length would save padding, but each would be of one
    domain and level: measured here, accuracy fell from .55 to .40 on code.) *Within* a step, padded
    micro-batches hold examples of like length, which saves most of the padding and leaves the gradient
    of the step what it was; packed ones hold about equally many tokens.

    Parameters
    ----------
    lengths
        Tokens of each example.
    batch_size
        Examples per step.
    processes, accumulation
        Micro-batches of a step are their product; those that no example is left for are empty.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int,
        processes: int = 1,
        accumulation: int = 1,
        packing: bool = False,
    ) -> None:
        self._lengths, self._batch_size, self._seed, self._epoch = lengths, batch_size, seed, 0
        self._processes, self._parts, self._packing = processes, processes * accumulation, packing

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; the Trainer calls this at the start of every epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self._lengths), self._batch_size)
        return full * self._parts + (self._count(rest) if rest else 0)

    def __iter__(self) -> Iterator[Group]:
        generator = torch.Generator().manual_seed(self._seed * 100_003 + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        for start in range(0, len(order), self._batch_size):
            step = order[start : start + self._batch_size]
            groups = self._packed(step) if self._packing else self._padded(step)
            wanted = self._parts if len(step) == self._batch_size else self._count(len(step))
            yield from groups + [()] * (wanted - len(groups))

    def _count(self, rest: int) -> int:
        """Return the micro-batches of a step of ``rest`` examples, the same number for every process."""
        needed = min(self._parts, rest) if self._packing else -(-rest // self._size)
        return -(-needed // self._processes) * self._processes

    @property
    def _size(self) -> int:
        return -(-self._batch_size // self._parts)

    def _padded(self, step: list[int]) -> list[Group]:
        ordered = sorted(step, key=lambda i: (self._lengths[i], i))
        return [tuple(ordered[i : i + self._size]) for i in range(0, len(ordered), self._size)]

    def _packed(self, step: list[int]) -> list[Group]:
        """Deal examples, longest first, each to the micro-batch with the fewest tokens so far."""
        groups: list[list[int]] = [[] for _ in range(min(self._parts, len(step)))]
        tokens = [0] * len(groups)
        for index in sorted(step, key=lambda i: (-self._lengths[i], i)):
            lightest = tokens.index(min(tokens))
            groups[lightest].append(index)
            tokens[lightest] += self._lengths[index]
        return [tuple(group) for group in groups]


@dataclass(frozen=True)
class Collator:
    """Make a micro-batch's tensors, [rows, tokens] each; the Trainer hands over a list of one micro-batch.

    Padded: ``input_ids``, ``attention_mask``, ``labels``, ``weights``, rows padded on the right.
    Packed: one row, with ``position_ids`` in place of the mask. An empty micro-batch becomes a row
    without a loss term, so that every process takes part in every step.
    """

    pad_id: int
    packing: bool = False

    def __call__(self, groups: Sequence[list[Row]]) -> dict[str, torch.Tensor]:
        """Return the tensors of the one micro-batch in ``groups``."""
        rows = [row for group in groups for row in group] or [self._nothing()]
        return self._pack(rows) if self.packing else self._pad(rows)

    def _nothing(self) -> Row:
        return {
            "input_ids": torch.full((2,), self.pad_id),
            "labels": torch.full((2,), IGNORED),
            "weights": torch.zeros(2),
        }

    def _pad(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        def pad(name: str, value: float) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], True, value)

        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        input_ids = pad("input_ids", self.pad_id)
        return {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1])[None] < lengths[:, None]).long(),
            "labels": pad("labels", IGNORED),
            "weights": pad("weights", 0.0),
        }

    def _pack(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        packed = {name: torch.cat([row[name] for row in rows])[None] for name in rows[0]}
        # The first token of an example must not be predicted from the last of the one before it.
        starts = torch.tensor([0] + [len(row["input_ids"]) for row in rows[:-1]]).cumsum(0)
        packed["labels"][:, starts] = IGNORED
        positions = torch.cat([torch.arange(len(row["input_ids"])) for row in rows])[None]
        return packed | {"position_ids": positions}


@torch.no_grad()
def check_packing(model: Any, *, tolerance: float = 1e-3) -> None:
    """Raise where an example in a packed row changes the logits of its neighbour.

    Two short sequences are packed behind two different first ones; the second's logits have to be
    those that it has alone, to ``tolerance`` of their spread. Models whose layers are recurrent, or whose
    attention takes no notice of position ids, fail. Flash attention needs a GPU and 16 bits, which the
    model may not have yet: there the architecture is tried under SDPA, and the variable-length kernel
    that transformers chooses by the same position ids is trusted.

    Raises
    ------
    ParameterError
        Naming the model and its attention implementation.
    """
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    generator = torch.Generator().manual_seed(0)
    first, other, second = torch.randint(0, vocabulary, (3, 6), generator=generator).to(model.device)
    positions = torch.arange(6, device=model.device)
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    try:
        if str(attention).startswith("flash"):
            model.set_attn_implementation("sdpa")
        alone = _logits(model, second, positions)
        behind = [_logits(model, torch.cat([a, second]), positions.repeat(2))[6:] for a in (first, other)]
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise _no_packing(model, f"its forward pass failed ({str(error).splitlines()[0]})") from None
    finally:
        model.train(training)
        if str(attention).startswith("flash"):
            model.set_attn_implementation(attention)
    worst = max(float((logits - alone).abs().max()) for logits in behind)
    if not worst <= tolerance * max(float(alone.std()), 1e-6):
        raise _no_packing(model, f"logits moved by {worst:.2g} with the example before")


def _logits(model: Any, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    output = model(input_ids=tokens[None], position_ids=positions[None], use_cache=False)
    return output.logits[0].float()


def _no_packing(model: Any, reason: str) -> ParameterError:
    attention = getattr(model.config, "_attn_implementation", None)
    name = f"{type(model).__name__} with {attention} attention"
    return ParameterError("packing", True, f"false for {name}, which does not keep examples apart: {reason}")
