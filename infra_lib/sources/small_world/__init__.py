"""The small world: generated mathematics stories and code tasks that share their operations.

Small enough that a transformer of half a million parameters learns it in minutes on a
CPU, and real in every other respect: problems compose 1 to 5 steps, solutions reason in
sentences, answers are graded exactly and programs by running them.
"""

from infra_lib.sources.small_world.pretraining import pretraining_documents
from infra_lib.sources.small_world.splits import DOMAINS, SHARES, Splits, SplitSizes, make_splits, split_of
from infra_lib.sources.small_world.tokenizer import train_tokenizer

__all__ = [
    "DOMAINS",
    "SHARES",
    "SplitSizes",
    "Splits",
    "make_splits",
    "pretraining_documents",
    "split_of",
    "train_tokenizer",
]
