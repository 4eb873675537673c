"""Answers to problems: one table of them, from transformers or from vLLM.

>>> frame = answer(TransformersEngine(model, tokenizer), problems,
...                Sampling(temperature=0.7, samples=8), store=folder)   # doctest: +SKIP

Each answer has a seed of its own, made from the sampling seed, the problem's id and the
number of the sample. So an answer depends on neither the batch that its problem was in nor
the other problems, apart from floating-point noise that may break a tie:

* greedy answers take the likeliest token;
* sampled answers of :class:`TransformersEngine` take the token at which the cumulated
  probability passes a number drawn by that seed, one per token;
* :class:`VllmEngine` hands each request its seed. The same seed gives other draws than
  under transformers, from the same distribution.
"""

from infra_lib.evaluate.generate.answers import AnswerStore, answer
from infra_lib.evaluate.generate.sampling import Answer, Engine, Request, Sampling, chat_end_tokens
from infra_lib.evaluate.generate.transformers_engine import TransformersEngine, generate
from infra_lib.evaluate.generate.vllm_engine import VllmEngine

__all__ = [
    "Answer",
    "AnswerStore",
    "Engine",
    "Request",
    "Sampling",
    "TransformersEngine",
    "VllmEngine",
    "answer",
    "chat_end_tokens",
    "generate",
]
