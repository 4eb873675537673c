"""Made-up scores in the shape of the engine's, over any texts and with no model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from infra_lib.examples import Example
from infra_lib.explorer import tables
from infra_lib.explorer.page import page_files
from infra_lib.explorer.score import Explored
from infra_lib.models import Encoded

PAIRS = [(method, target) for target in ("math", "code") for method in ("ekfac", "graddot", "gradcos")]
PROMPT_TOKENS = 3
ABOUT = {"study": "made up", "base_seed": 0, "targets": {"code": 7, "math": 12}}


def encoded(example: Example, size: int = 4) -> Encoded:
    """Return an example in tokens of so many characters, and an end token."""
    text = example.response
    cuts = [*range(0, len(text), size), len(text)]
    offsets = (*pairwise(cuts), (len(text), len(text)))
    mask = torch.tensor([False] * PROMPT_TOKENS + [True] * len(offsets))
    return Encoded(example.id, torch.zeros(len(mask), dtype=torch.int64), mask, offsets)


def explored(examples: Sequence[Example], seed: int = 0) -> Explored:
    """Return random scores: the sums of both readings agree, and cosines are products over a number."""
    rng = np.random.default_rng(seed)
    rows = [encoded(example) for example in examples]
    loss, position = {}, {}
    for method, target in PAIRS:
        if method == "gradcos":
            for found in (loss, position):
                found[method, target] = [values / 37 for values in found["graddot", target]]
            continue
        loss[method, target] = [rng.standard_t(3, row.n_tokens) for row in rows]
        position[method, target] = [_moved(rng, values) for values in loss[method, target]]
    return Explored(loss, position, list(examples), rows)


def _moved(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    found = rng.standard_t(3, len(values) + PROMPT_TOKENS)
    return found + (values.sum() - found.sum()) / len(found)


def files_of(examples: Sequence[Example], **options) -> dict[str, str]:
    """Return the page's files over examples with made-up scores."""
    found = explored(examples)
    sentences, tokens = tables.finer_tables(found)
    return page_files(examples, tables.example_table(found), sentences, tokens, ABOUT, **options)
