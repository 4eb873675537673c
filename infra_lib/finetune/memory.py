"""What the state of a training takes in memory, from sizes alone.

Bytes per trained parameter, as torch's AdamW and FSDP2 keep them (checked in the tests
against the tensors of a real optimiser):

=====================  ==========  ==================  ==================================
what                   full        LoRA, base frozen   note
=====================  ==========  ==================  ==================================
parameters             4           2 or 4              2: base in bfloat16 without FSDP
gradients              4           4, adapters only
Adam, two moments      8           8, adapters only
=====================  ==========  ==================  ==================================

So full fine-tuning takes 16 bytes a parameter in *any* precision of :data:`PRECISIONS`,
since lower precision is mixed: it makes activations and arithmetic smaller and not the
state. Under FSDP each process holds its share, plus one gathered decoder layer at a time and
what belongs to none (2 bytes a parameter in bfloat16, 4 in float32). Without FSDP each
process holds all of it, and autocast keeps a bfloat16 copy of the linear layers' weights
during a step (2 bytes).
Before it is shared out, every process loads the base on the host: 4 bytes a parameter and
process of host memory (2 with a base frozen in bfloat16). Saving gathers the weights on the
host of the first process, once more in 4 bytes and once in the base's own dtype. A
checkpoint on disk takes 12 bytes a trained parameter; two are there for a moment.

Activations come on top, and are traced with the training's own step
(:mod:`infra_lib.plan.passes`): all that the layers keep, or with gradient checkpointing
their inputs and the inside of one; the logits, and in float32 their log-softmax and its
gradient, in pieces of half a gibibyte (:mod:`infra_lib.finetune.trainer`). Where examples
share a batch, SDPA is given a mask: one of truth values, and one of the activations' type
for each layer, of tokens² elements in packed rows. Flash and flex attention are given none.
"""

from __future__ import annotations

from typing import Any

from infra_lib.finetune.config import MIXED, FinetuneConfig

GRADIENT, MOMENTS = 4, 8
"""Bytes per trained parameter of the gradient and of Adam's two moments."""


def state_bytes(
    parameters: int, config: FinetuneConfig, *, trained: int | None = None, processes: int = 1
) -> dict[str, int]:
    """Return the bytes of parameters, gradients and Adam's moments in each process.

    Parameters
    ----------
    parameters
        Parameters of the model, tied ones counted once.
    trained
        Parameters of the adapters with LoRA; None where all are trained.
    processes
        Processes that share the state under FSDP.

    Returns
    -------
    dict
        ``parameters``, ``gradients``, ``moments``, ``total``.
    """
    adapters = trained if config.lora_rank and trained is not None else 0
    updated = adapters or parameters
    frozen_bytes = base_bytes(config) * parameters if adapters else 0
    shares = processes if config.fsdp else 1
    state = {
        "parameters": frozen_bytes + 4 * updated,
        "gradients": GRADIENT * updated,
        "moments": MOMENTS * updated,
    }
    shared = {name: -(-size // shares) for name, size in state.items()}
    return shared | {"total": sum(shared.values())}


def lora_parameters(shapes: list[tuple[int, int]], rank: int) -> int:
    """Return the parameters of adapters on linear layers of these (out, in) shapes."""
    return sum(rank * (out + into) for out, into in shapes)


def base_bytes(config: FinetuneConfig) -> int:
    """Return bytes per parameter of the weights that are loaded: 2 for a base frozen in 16 bits, else 4.

    FSDP wants one dtype per layer, so there a frozen base stays in float32 beside its adapters.
    """
    frozen = config.lora_rank > 0 and config.precision in MIXED and not config.fsdp
    return 2 if frozen else 4


def checkpoint_activations(model: Any, *, on: bool = True) -> None:
    """Make a model compute each layer's activations again in the backward pass, or keep them again."""
    # transformers renamed it; the old name warns and goes in version 6.
    name = next(n for n in ("activation", "gradient") if hasattr(model, f"{n}_checkpointing_enable"))
    if on:
        getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{name}_checkpointing_disable")()
        model.disable_input_require_grads()  # which the other asked for
