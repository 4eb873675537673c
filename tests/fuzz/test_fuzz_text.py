"""Any text is cut into tokens and sentences without loss, and scores of the parts sum to the whole."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hostile import ANY_TEXT, TEXTS
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from trials import Trials

from infra_lib.errors import DataError
from infra_lib.examples import Example
from infra_lib.influence import sum_over_spans
from infra_lib.models import encode
from infra_lib.sentences import split_sentences

LONG = [
    "\n".join(f"line {i}: 👩\u200d💻 مرحبا {i * i}." for i in range(10_000)),
    "word " * 5_000,
    "é" * 5_000,
    "🙂" * 2_000,
    "a\u0301\u0302" * 2_000,
    "\0" * 2_000,
]
TEXT = ANY_TEXT.filter(bool)


def byte_level(trim: bool) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE, in which a rare character is several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Trimmed offsets leave out a token's white space, as GPT-2's and Llama 3's do.
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["Find x. So the answer is 4, é and 字. def f(x):\n    return x"] * 9, trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")


@pytest.fixture(scope="module", params=["the world's", "byte-level BPE", "byte-level BPE, trimmed"])
def any_tokenizer(request, tokenizer):
    return tokenizer if request.param == "the world's" else byte_level("trimmed" in request.param)


def check_encoding(tokenizer, text: str, *, lossless: bool, exact: bool) -> None:
    row = encode(tokenizer, Example("a", "math", "Find x.", text), end_token=True)
    *offsets, end = row.offsets
    assert end == (len(text), len(text))
    assert [start for start, _ in offsets] == [0, *(stop for _, stop in offsets[:-1])]
    assert all(start <= stop for start, stop in offsets)
    assert not offsets or offsets[-1][1] == len(text)
    assert row.n_tokens == int(row.loss_mask.sum())
    if lossless:
        ids = row.input_ids[row.loss_mask].tolist()
        assert tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False) == text
    if exact:
        for token, (start, stop) in zip(ids[:100], offsets[:100], strict=False):
            piece = text[start:stop]
            if piece.isascii() and piece:
                assert tokenizer.decode([token], clean_up_tokenization_spaces=False) == piece
    spans = [(s.start, s.end) for s in split_sentences(text)]
    scores = np.sin(np.arange(row.n_tokens) + 1.0)
    sums = sum_over_spans(scores, row.offsets, spans, text)
    assert len(sums) == len(spans)
    assert np.isclose(sums.sum(), scores.sum())


@pytest.mark.reliability(kind="fuzz", title="tokenizers: any text is cut into tokens without loss")
def test_tokens_cut_any_response_into_pieces(request, any_tokenizer) -> None:
    lossless = any_tokenizer.unk_token is None  # the world's own knows its own characters alone
    probe = any_tokenizer("a \n  b", add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    exact = lossless and all(before[1] == after[0] for before, after in pairwise(probe))

    def check(text: str) -> None:
        check_encoding(any_tokenizer, text, lossless=lossless, exact=exact)

    trials = Trials(request)
    trials.each([text for text in [*TEXTS, *LONG] if text], check)
    trials.search(TEXT, check, 150)


@pytest.mark.reliability(kind="bad input", title="tokenizers: text that is none")
@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc80" * 5])
@pytest.mark.parametrize("field", ["prompt", "response"])
def test_half_a_surrogate_pair_is_a_named_error(tokenizer, text: str, field: str) -> None:
    example = Example(**{"id": "a", "domain": "math", "prompt": "p", "response": "r"} | {field: text})
    with pytest.raises(DataError, match="half a surrogate pair"):
        encode(tokenizer, example)


@pytest.mark.reliability(kind="bad input", title="tokenizers: an empty response")
def test_an_empty_response_is_a_named_error(any_tokenizer) -> None:
    with pytest.raises(DataError, match="no response token"):
        encode(any_tokenizer, Example("a", "math", "Find x.", ""))


@pytest.mark.reliability(kind="fuzz", title="sentences: any text, and very long ones")
def test_sentences_cover_any_text(request) -> None:
    def check(text: str) -> None:
        spans = split_sentences(text)
        assert "".join(text[s.start : s.end] for s in spans) == text
        assert all(s.start < s.end for s in spans)

    trials = Trials(request)
    trials.each([*TEXTS, *LONG], check)
    # What a quadratic rule would not finish: each unit in turn, 200,000 characters of it.
    units = [
        "\n",
        " ",
        " \n",
        ".",
        ". ",
        "!?\"'",
        '."',
        "a.b",
        "``",
        "```\n",
        "\n```",
        " \t```",
        "\u2003",
        "。",
        "A. ",
    ]
    trials.each([unit * (200_000 // len(unit)) for unit in units], check)
    parts = st.lists(st.sampled_from([*units, "x", "3.5", "e.g. "]), max_size=40).map("".join)
    trials.search(parts | ANY_TEXT, check, 300)
