"""Weighted supervised fine-tuning: loss on the response only, one weight per example.

The loss of an optimiser step over examples i with loss-carrying tokens t is

    L = Σ_i w_i Σ_t −log p(y_it | y_i,<t, x_i) / Σ_i n_i,        i over the *whole* step,

the usual token mean with each example's term multiplied by its weight. A step is all
micro-batches of all processes, so the same examples give the same L however many there
are of either. Weights are scaled to mean one over the training set and *not* normalised
inside a batch, so that the expected gradient is that of the weighted data set whatever
the batching, and equal weights give plain fine-tuning exactly.

The loop is the Trainer of transformers with a small subclass. (The SFTTrainer of trl was
the alternative: it packs across steps and has no weight per example, so both the loss and
the batches would have had to be replaced.) One small model on a CPU and a large one under
``torchrun`` or ``accelerate launch`` with FSDP take the same code path:

``config``
    what a run depends on, checked before anything is loaded;
``batches``
    which examples go through the model together, padded or packed;
``trainer``
    the loss and the Trainer's settings;
``checkpoints``
    interrupted runs;
``lora``
    low-rank adapters;
``memory``
    what the state of a training takes;
``store``, ``run``
    finished runs, and :func:`finetune` itself;
``command``, ``launch``
    ``infra finetune`` on anybody's files, and a run on several devices.
"""

from infra_lib.finetune.batches import IGNORED
from infra_lib.finetune.config import FinetuneConfig, check_weights, weights_dtype
from infra_lib.finetune.run import finetune
from infra_lib.finetune.store import read_finished, run_key
from infra_lib.finetune.trainer import WeightedTrainer, train_quietly, trainer_arguments

__all__ = [
    "IGNORED",
    "FinetuneConfig",
    "WeightedTrainer",
    "check_weights",
    "finetune",
    "read_finished",
    "run_key",
    "train_quietly",
    "trainer_arguments",
    "weights_dtype",
]
