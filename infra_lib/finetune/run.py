"""One fine-tuning run, from base and weighted examples to a finished folder."""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from transformers import set_seed

from infra_lib.errors import InfraError, ParameterError
from infra_lib.examples import Example
from infra_lib.finetune.batches import Collator, MicroBatches, Rows, check_packing
from infra_lib.finetune.checkpoints import barrier, is_main, remove_work
from infra_lib.finetune.config import MIXED, FinetuneConfig, check_weights, process_count
from infra_lib.finetune.lora import add_lora, merge_lora, require_peft, save_adapter
from infra_lib.finetune.memory import base_bytes, checkpoint_activations
from infra_lib.finetune.store import put_in_place, read_finished, run_key
from infra_lib.finetune.trainer import WeightedTrainer, train_quietly, trainer_arguments
from infra_lib.models import (
    Encoded,
    check_model_folder,
    encode,
    load_model,
    load_tokenizer,
    model_config,
    save_model,
)

FSDP = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "reshard_after_forward": True,
    "state_dict_type": "FULL_STATE_DICT",
}
"""Settings of FSDP2 as transformers takes them: one unit per decoder layer."""


def finetune(
    base: str | Path,
    examples: Sequence[Example],
    config: FinetuneConfig,
    *,
    seed: int,
    folder: Path,
    weights: Sequence[float] | None = None,
    device: str = "cpu",
    progress: bool = True,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Fine-tune ``base`` on weighted examples and return the folder of the finished model.

    Started by ``torchrun`` or ``accelerate launch``, the processes share each step's examples; the
    result is that of one process, to rounding.

    Parameters
    ----------
    base
        Hugging Face folder or hub name of the model to start from.
    examples, weights
        Training examples, and one positive weight for each (None: all equal).
    seed
        Of data order and dropout.
    folder
        Where the model goes: weights (safetensors, in the base's own dtype), tokenizer and ``run.json``;
        with LoRA the merged model, and the adapters in ``adapter``. A folder that already holds this
        very run is returned at once, and an interrupted run continues at its last checkpoint.
    device
        ``cpu`` or ``cuda``.
    notes
        Further entries of ``run.json``, such as where the examples come from.

    Raises
    ------
    InfraError
        Where another process is at this very run.
    ParameterError
        For weights or a configuration that cannot be used, before anything is loaded; for packing or
        adapters that do not fit the model, before anything is trained.
    """
    scaled = check_weights(weights, examples)
    config.check(device=device, processes=process_count())
    require_peft(config)
    check_model_folder(base)
    key = run_key(base, examples, scaled, config, seed)
    work = folder.with_name(f"{folder.name}.{key[:12]}{'-fsdp' if _sharded(config) else ''}.part")
    if read_finished(folder, key):
        # What a kill left between the model and the end of its tidying.
        if is_main() and work.exists():
            remove_work(work)
        return folder
    tokenizer = load_tokenizer(base)
    encoded = [
        encode(
            tokenizer,
            example,
            end_token=config.end_token,
            chat_template=config.chat_template,
            max_tokens=config.max_tokens,
        )
        for example in examples
    ]
    with _alone(work):
        record = _train(base, encoded, scaled, config, work, seed=seed, device=device, progress=progress)
        if is_main():
            put_in_place(work / "final", folder, {"key": key, **record, **(notes or {})})
            remove_work(work)
    barrier()
    return folder


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the folder of checkpoints, so that no second run writes to it."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / ".lock").open("a") as stream:
        if os.environ.get("RANK", "0") == "0":
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InfraError(f"another process trains in {work}; wait for it or end it") from None
        yield


def _train(
    base: str | Path,
    encoded: Sequence[Encoded],
    weights: Sequence[float],
    config: FinetuneConfig,
    work: Path,
    *,
    seed: int,
    device: str,
    progress: bool,
) -> dict[str, Any]:
    """Train, save the model in ``work/final``, and return what is recorded of the run."""
    started = time.perf_counter()
    set_seed(seed)
    tokenizer = load_tokenizer(base)
    model = _prepare(base, config, device)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    data = Rows(encoded, weights)
    trainer = WeightedTrainer(
        model=model,
        args=_arguments(config, len(data), work, seed=seed, device=device, progress=progress),
        train_dataset=data,
        data_collator=Collator(tokenizer.pad_token_id or 0, config.packing),
        micro_batches=_micro_batches(config, data, seed),
    )
    if _sharded(config) and trainer.accelerator.distributed_type != DistributedType.FSDP:
        raise ParameterError("fsdp", True, f"false on {device}, where accelerate does not shard")
    result = train_quietly(trainer, work, precision=config.precision)
    _save(trainer, tokenizer, base, config, work / "final")
    return {
        "seed": seed,
        "config": asdict(config),
        "base": str(base),
        "parameters_trained": trained,
        "steps": result.global_step,
        **_loss_record(trainer),
        **_data_record(encoded),
        "processes": process_count(),
        "accumulation": config.accumulation(process_count()),
        "sharded": _sharded(config),
        "seconds": round(time.perf_counter() - started, 2),
    }


def _sharded(config: FinetuneConfig) -> bool:
    """Return whether FSDP is on: asked for here, or by the file that ``accelerate launch`` was given."""
    return config.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def _prepare(base: str | Path, config: FinetuneConfig, device: str) -> Any:
    """Return the model as it goes into the Trainer."""
    # With several processes the Trainer puts each model, or its share, on the process's own device.
    alone = process_count() == 1 and not _sharded(config)
    model = load_model(
        base,
        dtype=torch.bfloat16 if base_bytes(config) == 2 else torch.float32,
        device=device if alone else "cpu",
        attn_implementation=config.attention,
    )
    if config.packing:
        check_packing(model)
    if config.lora_rank:
        model = add_lora(model, config)
    if config.gradient_checkpointing and not _sharded(config):
        checkpoint_activations(model)
        if config.lora_rank:
            model.enable_input_require_grads()
    return model


def _arguments(
    config: FinetuneConfig, examples: int, work: Path, *, seed: int, device: str, progress: bool
) -> Any:
    steps = config.epochs * math.ceil(examples / config.batch_size)
    others: dict[str, Any] = {}
    if config.fsdp:
        others["fsdp"] = True
        others["fsdp_config"] = FSDP | {"activation_checkpointing": config.gradient_checkpointing}
    elif _sharded(config) and config.gradient_checkpointing:
        os.environ["FSDP_ACTIVATION_CHECKPOINTING"] = "true"  # what accelerate reads beside its file
    if config.checkpoint_steps:
        others["save_steps"] = config.checkpoint_steps
    arguments = trainer_arguments(
        work,
        seed=seed,
        steps=steps,
        epochs=config.epochs,
        batch_size=1,
        gradient_accumulation_steps=config.accumulation(process_count()),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=round(config.warmup_fraction * steps),
        progress=progress,
        device=device,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type=config.schedule if config.schedule != "constant" else "constant_with_warmup",
        bf16=config.precision == "bfloat16",
        fp16=config.precision == "float16",
        save_strategy="steps" if config.checkpoint_steps else "epoch",
        **others,
    )
    launched = {"bf16": "bfloat16", "fp16": "float16"}.get(arguments.mixed_precision, "float32")
    if launched != (config.precision if config.precision in MIXED else "float32"):
        valid = f"{arguments.mixed_precision}, as accelerate was configured (its mixed_precision: no is best)"
        raise ParameterError("precision", config.precision, valid)
    if arguments.n_gpu > 1:
        # One process uses one device; the Trainer would use all that it sees (torch's DataParallel).
        arguments._n_gpu = 1
    return arguments


def _micro_batches(config: FinetuneConfig, data: Rows, seed: int) -> MicroBatches:
    return MicroBatches(
        data.lengths,
        config.batch_size,
        seed=seed,
        processes=process_count(),
        accumulation=config.accumulation(process_count()),
        packing=config.packing,
    )


def _loss_record(trainer: WeightedTrainer) -> dict[str, Any]:
    curve = [(row["step"], row["loss"]) for row in trainer.state.log_history if "loss" in row]
    return {"final_loss": curve[-1][1] if curve else None, "loss_curve": curve}


def _data_record(encoded: Sequence[Encoded]) -> dict[str, int]:
    """Return counts of the data: what was trained on, and what the context cut off."""
    return {
        "examples": len(encoded),
        "loss_tokens_per_epoch": sum(int(row.loss_mask.sum()) for row in encoded),
        "tokens_per_epoch": sum(len(row.input_ids) for row in encoded),
        "truncated_examples": sum(row.truncated > 0 for row in encoded),
        "truncated_tokens": sum(row.truncated for row in encoded),
    }


def _save(
    trainer: WeightedTrainer, tokenizer: Any, base: str | Path, config: FinetuneConfig, final: Path
) -> None:
    """Save the trained model as one plain folder; every process takes part in gathering a sharded one."""
    dtype = model_config(base).dtype or torch.float32
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not is_main():
        return
    if config.lora_rank:
        adapter = final.with_name("adapter")
        save_adapter(trainer.accelerator.unwrap_model(trainer.model_wrapped), state, adapter, base)
        save_model(merge_lora(base, adapter, dtype), tokenizer, final)
        adapter.rename(final / "adapter")
        return
    plain = load_model(base, dtype=dtype)
    plain.load_state_dict(state)
    save_model(plain, tokenizer, final)
