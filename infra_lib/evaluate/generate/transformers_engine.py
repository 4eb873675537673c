"""Batched generation with transformers: left padding, prompts of like length together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from infra_lib.errors import InfraError, ParameterError
from infra_lib.evaluate.generate.per_row import PerRowSampler
from infra_lib.evaluate.generate.sampling import Answer, Request, Sampling, end_tokens
from infra_lib.examples import Example
from infra_lib.models import prompt_tokens

BATCH_TOKENS = 65_536
"""Default on a CPU for tokens of a batch, answers at their longest."""

CACHE_BYTES = 2**31
"""Keys and values of a batch on a GPU, by default: a small model is bound by the number of its kernels
there, and draws a thousand answers in the time of a hundred. Qwen2.5-7B in bfloat16 holds 37,000 tokens
in it (28 layers × 2 × 4 heads × 128 × 2 bytes each)."""


class TransformersEngine:
    """Draws answers with a model in memory.

    Parameters
    ----------
    batch_tokens
        Most tokens in a batch, prompts padded and answers at their longest; None is
        :data:`BATCH_TOKENS` on a CPU and what :data:`CACHE_BYTES` hold on a GPU. Where a CUDA device has
        too little memory for it, it is halved, with a message, and stays so.
    batch_size
        Most answers in a batch; None sets no limit of its own.
    chat_template
        Wrap prompts as user turns; None does so where the tokenizer has a template.
    identity
        What stored answers are known by: digest of the weights, and dtype.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        chat_template: bool | None = None,
        identity: str | None = None,
    ) -> None:
        for name, value in (("batch_tokens", batch_tokens), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ParameterError(name, value, "1 or more")
        self.model, self.tokenizer = model, tokenizer
        self.chat_template = chat_template
        self.identity = None if identity is None else f"transformers {identity} {model.dtype}"
        self._batch_tokens, self._batch_size = batch_tokens or _batch_tokens(model), batch_size
        self._ends = end_tokens(tokenizer, getattr(model, "generation_config", None))

    def run(
        self, requests: Sequence[Request], sampling: Sampling, *, progress: bool = True
    ) -> Iterator[list[Answer]]:
        """Yield the answers of one batch after another, longest prompts first.

        Raises
        ------
        ParameterError
            Where the longest prompt and answer exceed the model's context, before anything is drawn.
        InfraError
            Where a single answer does not fit in the device's memory.
        """
        self._check_context(requests, sampling)
        waiting = sorted(requests, key=lambda r: (-len(r.prompt), r.id, r.sample))
        tokens = 0
        with tqdm(total=len(waiting), desc="answers", unit="answer", disable=not progress) as bar:
            while waiting:
                batch = waiting[: self._rows(waiting, sampling)]
                try:
                    answers = self._draw(batch, sampling)
                except torch.OutOfMemoryError:
                    self._halve(batch, sampling)
                    continue
                waiting = waiting[len(batch) :]
                tokens += sum(answer.n_tokens for answer in answers)
                bar.update(len(answers))
                if elapsed := bar.format_dict["elapsed"]:
                    bar.set_postfix_str(f"{tokens / elapsed:,.0f} tokens/s")
                yield answers

    def _rows(self, waiting: Sequence[Request], sampling: Sampling) -> int:
        """Return how many of the waiting requests, longest first, make the next batch."""
        row = len(waiting[0].prompt) + sampling.max_new_tokens
        rows = max(1, self._batch_tokens // row)
        return min(rows, self._batch_size or rows)

    def _halve(self, batch: Sequence[Request], sampling: Sampling) -> None:
        """Halve the token budget after the device ran out of memory."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        row = len(batch[0].prompt) + sampling.max_new_tokens
        if len(batch) == 1:
            raise InfraError(
                f"one answer of {row} tokens does not fit in the device's memory; "
                "lower max_new_tokens, load the model in bfloat16, or use a larger device"
            ) from None
        self._batch_tokens = max(1, row * (len(batch) // 2))
        tqdm.write(
            f"out of memory with {len(batch)} answers at once; going on with {len(batch) // 2} "
            f"({self._batch_tokens} tokens)"
        )

    def _check_context(self, requests: Sequence[Request], sampling: Sampling) -> None:
        context = getattr(self.model.config, "max_position_embeddings", None)
        longest = max((len(request.prompt) for request in requests), default=0)
        if context is not None and longest + sampling.max_new_tokens > context:
            room = context - longest
            valid = f"at most {room}, what a prompt of {longest} tokens leaves of the context of {context}"
            raise ParameterError("max_new_tokens", sampling.max_new_tokens, valid)

    @torch.inference_mode()
    def _draw(self, batch: Sequence[Request], sampling: Sampling) -> list[Answer]:
        width = max(len(request.prompt) for request in batch)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(r.prompt)) + list(r.prompt) for r in batch])
        mask = torch.tensor([[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in batch])
        options: dict[str, Any] = {}
        if not sampling.greedy:
            seeds = [request.seed for request in batch]
            options["logits_processor"] = LogitsProcessorList([PerRowSampler(sampling, seeds, width)])
        if sampling.stop:
            options["stopping_criteria"] = StoppingCriteriaList(
                [_StopTexts(sampling.stop, self._text, width)]
            )
        output = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=pad,
            eos_token_id=self._ends,
            # A model's own generation settings would change what the sampling parameters say.
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            num_beams=1,
            repetition_penalty=1.0,
            **options,
        )
        rows = output[:, width:].tolist()
        return [self._answer(request, row, sampling) for request, row in zip(batch, rows, strict=True)]

    def _answer(self, request: Request, row: list[int], sampling: Sampling) -> Answer:
        """Cut a row where it ended: at an end token, or where a stop text is complete."""
        end = next((i for i, token in enumerate(row) if token in self._ends), None)
        drawn, text_tokens = (len(row), row) if end is None else (end + 1, row[:end])
        reason = "length" if end is None else "stop"
        text = self._text(text_tokens)
        if any(stop in text for stop in sampling.stop):
            reason = "stop"
            drawn = next(
                n
                for n in range(1, len(text_tokens) + 1)
                if any(stop in self._text(text_tokens[:n]) for stop in sampling.stop)
            )
            text = text[: min(text.find(stop) for stop in sampling.stop if stop in text)]
        return Answer(request.id, request.sample, text, reason, drawn, request.seed)

    def _text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)


def _batch_tokens(model: Any) -> int:
    """Return the tokens of a batch whose keys and values take :data:`CACHE_BYTES` on a GPU."""
    config: Any = getattr(model, "config", None)
    on_cpu = getattr(getattr(model, "device", None), "type", "cpu") == "cpu"
    if on_cpu or not getattr(config, "num_attention_heads", None):
        return BATCH_TOKENS
    return max(1, CACHE_BYTES // cached_bytes(config, model.dtype.itemsize))


def cached_bytes(config: Any, itemsize: int) -> int:
    """Return the bytes of one token's keys and values in all layers, at so many bytes a number."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    each = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * each * itemsize)


class _StopTexts(StoppingCriteria):
    """End a row when a stop text is complete, by decoding its last tokens.

    transformers' own criterion builds a table over the vocabulary, which fails for tokenizers without a
    decoder that joins words (the small world's).
    """

    def __init__(self, stop: Sequence[str], text: Callable[[list[int]], str], width: int) -> None:
        self._stop, self._text, self._width = stop, text, width
        # A stop text of n bytes is complete within n tokens; a few more for characters cut in bytes.
        self._tail = max(len(text.encode("utf-8")) for text in stop) + 4

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return for each row [rows] whether it is at its end."""
        new = input_ids[:, self._width :][:, -self._tail :].tolist()
        ended = [any(stop in self._text(row) for stop in self._stop) for row in new]
        return torch.tensor(ended, device=input_ids.device)


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    temperature: float = 0.0,
    samples: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> list[list[str]]:
    """Answer plain prompts and return the texts alone; :func:`~.answers.answer` returns all there is to know.

    Parameters
    ----------
    max_new_tokens, temperature, samples, seed
        See :class:`~.sampling.Sampling`.

    Returns
    -------
    list
        Per prompt, its answers as text without special tokens.

    Raises
    ------
    ParameterError
        For numbers out of range, or several greedy samples (they would all be equal).
    """
    sampling = Sampling(max_new_tokens, temperature, samples=samples, seed=seed)
    sampling.check()
    engine = TransformersEngine(model, tokenizer, batch_size=batch_size)
    requests = []
    for number, text in enumerate(prompts):
        tokens = tuple(prompt_tokens(tokenizer, Example(str(number), "", text, "")))
        requests += [Request(str(number), s, tokens, sampling.seed_of(text, s)) for s in range(samples)]
    texts: list[list[str]] = [[""] * samples for _ in prompts]
    for answers in engine.run(requests, sampling, progress=progress):
        for answer in answers:
            texts[int(answer.id)][answer.sample] = answer.response
    return texts
