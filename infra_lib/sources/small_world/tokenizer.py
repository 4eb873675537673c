"""The small world's tokenizer: whole words with their leading space, digits one by one.

It is trained (its vocabulary is collected) by the ``tokenizers`` library on the world's
own text and loses nothing: decoding gives the text back, character by character.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from infra_lib.sources.small_world import pretraining
from infra_lib.sources.small_world.splits import SplitSizes, make_splits

END, PAD, UNKNOWN = "<|end|>", "<|pad|>", "<|unk|>"
_PIECES = Regex(r"```(?:python)?|\n(?: {4})?| ?[A-Za-z]+| ?[0-9]| ?//| ?[<>=]=| ?[^\sA-Za-z0-9]| ")


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on a fixed sample of the world; the result is always the same."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(_PIECES, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=1024, special_tokens=[PAD, END, UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(_sample(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=END,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _sample() -> Iterator[str]:
    """Yield text in which every token of the world occurs."""
    yield from pretraining.pretraining_documents(150_000, seed=0, count_tokens=lambda text: len(text) // 3)
    # The kept base models' tokens were counted on these; a question at two levels does no harm here.
    splits = make_splits(
        SplitSizes(train=400, swap_pool=0, target=0, test=0),
        seed=0,
        exploratory_fraction=1.0,
        distinct_across_levels=False,
    )
    for example in splits.train:
        yield example.prompt + example.response
    # Every digit, bare and after a space, beside the marks that can stand around it.
    rng = random.Random(0)
    for digit in range(10):
        yield f"{digit} {digit}, [{digit}, {digit}] -{digit} - {digit} [-{digit}:] x[{digit}:] {rng.random()}"
