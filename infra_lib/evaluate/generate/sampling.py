"""How answers are drawn, one request and one answer, and where an answer ends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from infra_lib.errors import ParameterError
from infra_lib.files import digest_of


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters, the same for every engine.

    Attributes
    ----------
    max_new_tokens
        Longest answer in tokens, end token included.
    temperature
        0 decodes greedily; above 0 samples.
    top_p
        Sample from the fewest likeliest tokens that together have this probability; 1 takes all.
    top_k
        Sample from so many likeliest tokens; 0 takes all.
    samples
        Answers per problem.
    seed
        Of sampled answers.
    stop
        Texts that end an answer and are no part of it.
    """

    max_new_tokens: int = 320
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    samples: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise for a number out of range, or several greedy samples (they would all be equal).

        Raises
        ------
        ParameterError
            Naming the parameter, its value and what it must be.
        """
        for name in ("max_new_tokens", "samples"):
            if getattr(self, name) < 1:
                raise ParameterError(name, getattr(self, name), "1 or more")
        for name in ("top_k", "seed"):
            if getattr(self, name) < 0:
                raise ParameterError(name, getattr(self, name), "0 or more")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ParameterError("temperature", self.temperature, "0 (greedy) or a finite number above")
        if not 0 < self.top_p <= 1:
            raise ParameterError("top_p", self.top_p, "above 0 and at most 1")
        if self.samples > 1 and self.greedy:
            valid = "1 when temperature is 0, since greedy answers are all equal"
            raise ParameterError("samples", self.samples, valid)
        if isinstance(self.stop, str) or not all(self.stop):
            raise ParameterError("stop", self.stop, "a tuple of texts, none of them empty")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time."""
        return self.temperature == 0

    @property
    def digest(self) -> str:
        """Digest of all that an answer depends on; more samples leave the first ones as they are."""
        return digest_of({key: value for key, value in asdict(self).items() if key != "samples"})

    def seed_of(self, example_id: str, sample: int) -> int:
        """Return the seed of one answer, below 2⁶⁰."""
        return int(digest_of([self.seed, example_id, sample])[:15], 16)


@dataclass(frozen=True)
class Request:
    """One answer to draw: problem, number of the sample, prompt tokens, seed."""

    id: str
    sample: int
    prompt: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes
    ----------
    id, sample, seed
        As in the request.
    response
        Text without special tokens and stop texts.
    finish_reason
        ``stop`` (end token or stop text) or ``length``.
    n_tokens
        Tokens drawn, end token included.
    """

    id: str
    sample: int
    response: str
    finish_reason: str
    n_tokens: int
    seed: int


class Engine(Protocol):
    """What draws answers."""

    tokenizer: Any
    chat_template: bool | None
    identity: str | None

    def run(
        self, requests: Sequence[Request], sampling: Sampling, *, progress: bool = True
    ) -> Iterator[list[Answer]]:
        """Yield answers as they are finished, some at a time, in any order."""


def chat_end_tokens(tokenizer: Any) -> list[int]:
    """Return the special token that the chat template puts after an answer, as a list of one or none.

    Instruction-tuned models end their turn with it, and it is not always the tokenizer's end token.
    """
    if not getattr(tokenizer, "chat_template", None):
        return []
    mark = "infra-answer"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # templates are programs of the model's authors and raise what they like
        return []
    ids = tokenizer(text.partition(mark)[2], add_special_tokens=False).input_ids
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    return [token for token in ids if token in special][:1]


def end_tokens(tokenizer: Any, generation_config: Any = None) -> list[int]:
    """Return the ids that end an answer: the generation config's, the tokenizer's, the chat template's."""
    configured = getattr(generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return sorted(
        {token for token in [*ids, tokenizer.eos_token_id, *chat_end_tokens(tokenizer)] if token is not None}
    )
