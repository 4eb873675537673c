"""What is measured on: random Qwen2-shaped models and random sequences, the same for every library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from infra_lib.models import Encoded


@dataclass(frozen=True)
class Size:
    """A model and the data that it is measured with.

    Attributes
    ----------
    hidden, inner, layers, heads, kv_heads, vocabulary
        The model's shape.
    train, target
        Training sequences, and sequences of each of the two targets.
    prompt, tokens
        Tokens of the prompt, and of the whole sequence.
    batch
        Sequences in a batch, for every library.
    repeats
        Interleaved repetitions; the fastest counts.
    initializer
        Standard deviation of the weights.
    scored
        Sequences in a batch of our forward-mode pass, which holds no graph; 0 is ``batch``.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    train: int
    target: int
    prompt: int = 32
    tokens: int = 128
    batch: int = 8
    repeats: int = 2
    initializer: float = 0.05
    scored: int = 0


SIZES = {
    "tiny": Size(32, 64, 2, 2, 2, 64, train=8, target=2, prompt=8, tokens=32, batch=4, repeats=1),
    "small": Size(128, 512, 4, 4, 4, 1024, train=96, target=16),
    "medium": Size(256, 1024, 8, 4, 4, 2048, train=32, target=8, repeats=1),
    # The shape of SmolLM2-135M with 6 of its 30 layers and a third of its vocabulary.
    "large": Size(576, 1536, 6, 9, 3, 16384, train=16, target=4, repeats=1),
}
TARGETS = ("math", "code")


_GPU: dict[str, Any] = {"target": 16, "prompt": 64, "tokens": 512, "initializer": 0.02}
GPU_SIZES = {
    "10m": Size(256, 1024, 8, 4, 4, 8192, train=256, batch=32, scored=128, **_GPU),
    # The shapes of SmolLM2-135M, Qwen2.5-0.5B and TinyLlama-1.1B (whose head is tied here), whole.
    "135m": Size(576, 1536, 30, 9, 3, 49152, train=128, batch=16, scored=64, **_GPU),
    "494m": Size(896, 4864, 24, 14, 2, 151936, train=64, batch=8, scored=32, **_GPU),
    "1b": Size(2048, 5632, 22, 32, 4, 32000, train=64, batch=8, scored=32, **_GPU),
}
"""What a GPU is measured with; weights are random, which changes no speed."""


def make_config(size: Size, attention: str = "eager") -> Qwen2Config:
    """Return the configuration of a size."""
    return Qwen2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        tie_word_embeddings=True,
        initializer_range=size.initializer,
        pad_token_id=0,
        attn_implementation=attention,
    )


def make_model(size: Size, *, device: str = "cpu", attention: str = "eager") -> Any:
    """Return a random model of a size, in single precision."""
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2ForCausalLM(make_config(size, attention)).eval()


def make_rows(size: Size, count: int, name: str, seed: int) -> list[Encoded]:
    """Return random sequences, the loss on what follows the prompt."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(size.tokens, dtype=torch.bool)
    mask[size.prompt :] = True
    spans = tuple((i, i + 1) for i in range(size.tokens - size.prompt))
    return [
        Encoded(
            f"{name}-{i}",
            torch.randint(1, size.vocabulary, (size.tokens,), generator=generator),
            mask,
            spans,
        )
        for i in range(count)
    ]


def make_data(size: Size) -> tuple[list[Encoded], dict[str, list[Encoded]]]:
    """Return training sequences and each target's sequences."""
    train = make_rows(size, size.train, "train", 1)
    return train, {name: make_rows(size, size.target, name, 2 + k) for k, name in enumerate(TARGETS)}
