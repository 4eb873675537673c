"""Batched generation with transformers: left padding, prompts of like length together.

Greedy by default. Answers do not depend on the batch that a prompt was in, apart from
ties that floating-point noise may break, and come back in the order of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from infra_lib.errors import ParameterError


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
    """Answer each prompt ``samples`` times.

    Parameters
    ----------
    max_new_tokens
        Longest answer in tokens, end token included.
    temperature
        0 decodes greedily; above 0 samples, from a generator seeded by ``seed``.

    Returns
    -------
    list
        Per prompt, its answers as text without special tokens.

    Raises
    ------
    ParameterError
        For numbers out of range, or several greedy samples (they would all be equal).
    """
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size), ("samples", samples)):
        if value < 1:
            raise ParameterError(name, value, "1 or more")
    if temperature < 0:
        raise ParameterError("temperature", temperature, "0 (greedy) or above")
    if samples > 1 and temperature == 0:
        raise ParameterError(
            "samples", samples, "1 when temperature is 0, since greedy answers are all equal"
        )
    encoded = [tokenizer(prompt).input_ids for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (len(encoded[i]), i))
    answers: list[list[str]] = [[] for _ in prompts]
    torch.manual_seed(seed)
    with tqdm(total=len(prompts), desc="answers", unit="answer", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            texts = _answer(
                [encoded[i] for i in rows], model, tokenizer, max_new_tokens, temperature, samples
            )
            for position, i in enumerate(rows):
                answers[i] = texts[position * samples : (position + 1) * samples]
            bar.update(len(rows))
    return answers


@torch.inference_mode()
def _answer(
    rows: Sequence[Sequence[int]],
    model: Any,
    tokenizer: Any,
    max_new_tokens: int,
    temperature: float,
    samples: int,
) -> list[str]:
    width = max(len(row) for row in rows)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        num_return_sequences=samples,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
        **sampling,
    )
    new = output[:, width:].tolist()
    return [_text(row, tokenizer) for row in new]


def _text(row: list[int], tokenizer: Any) -> str:
    if tokenizer.eos_token_id in row:
        row = row[: row.index(tokenizer.eos_token_id)]
    return tokenizer.decode(row, skip_special_tokens=True)
