"""Started with two processes: by torchrun, to fine-tune in several ways into the folder that it is given,
and by accelerate, to be `infra finetune`.

accelerate shards on accelerators only; on a CPU it trains unsharded without a word (and so
``fsdp`` is refused there). Here it is told that its two CPU processes are an accelerator's,
after which everything is real: FSDP2 of PyTorch over gloo, DTensors, gathered checkpoints.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch
from accelerate import DistributedType, state
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper

from infra_lib import cli
from infra_lib.examples import read_jsonl
from infra_lib.finetune import FinetuneConfig, WeightedTrainer, finetune
from infra_lib.finetune.launch import run_job

LOSS = WeightedTrainer.compute_loss


def shard_on_cpu() -> None:
    """Have accelerate shard, and the check let it."""
    plain = state.AcceleratorState.__init__

    def init(self, *args, **kwargs):
        if not self._shared_state:
            state.PartialState(cpu=True)
            state.PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
        plain(self, *args, **kwargs)

    state.AcceleratorState.__init__ = init
    FinetuneConfig.check = lambda self, **_: None


def look(*, checkpointed: bool) -> None:
    """Have each loss look whether the model is sharded, and has checkpoints as it should."""

    def looking(self, model, *args, **kwargs):
        assert {type(p.data).__name__ for p in model.parameters()} == {"DTensor"}
        wrapped = any(isinstance(module, CheckpointWrapper) for module in model.modules())
        assert wrapped == checkpointed, f"gradient checkpointing is {wrapped}"
        return LOSS(self, model, *args, **kwargs)

    WeightedTrainer.compute_loss = looking


def forget() -> None:
    """Let the next Trainer make its own state, with the process group as it is."""
    state.AcceleratorState._reset_state(reset_partial_state=False)
    state.GradientState._reset_state()


def interrupted(call) -> None:
    """Raise in all processes at the start of the second epoch, then run again: it resumes."""
    plain, seen = WeightedTrainer.compute_loss, []

    def failing(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 16:  # seven steps of two parts a process are an epoch
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    WeightedTrainer.compute_loss = failing
    try:
        call()
    except KeyboardInterrupt:
        WeightedTrainer.compute_loss = plain
    else:
        raise AssertionError("was not interrupted")
    forget()
    call()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    run_job(folder / "job.json")  # replicated: plain data parallelism
    job = json.loads((folder / "job.json").read_text())
    job["config"]["lora_targets"] = tuple(job["config"]["lora_targets"])
    config = dataclasses.replace(FinetuneConfig(**job["config"]), fsdp=True)
    examples = read_jsonl(folder / "train.jsonl")
    shard_on_cpu()

    def run(name: str, **change) -> None:
        finetune(
            job["base"],
            examples,
            dataclasses.replace(config, **change),
            seed=job["seed"],
            folder=folder / name,
            weights=job["weights"],
            progress=False,
        )

    tight = {"packing": True, "gradient_checkpointing": True}
    look(checkpointed=True)
    forget()
    interrupted(lambda: run("sharded", **tight))
    forget()
    run("half", precision="bfloat16", **tight)
    look(checkpointed=False)
    forget()
    run("lora", lora_rank=4)


if __name__ == "__main__":
    if sys.argv[1] == "finetune":
        shard_on_cpu()
        look(checkpointed="--gradient-checkpointing" in sys.argv)
        cli.main()
    else:
        main(Path(sys.argv[1]))
