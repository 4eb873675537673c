"""Base models: small transformers trained from scratch on the small world's broad mix.

The architecture is Qwen2, built from a configuration; documents are packed into blocks
of equal length with an end token after each. The same Trainer as in fine-tuning does
the work. A base folder holds ``model.safetensors``, the configuration, the tokenizer and
``provenance.json``, which carries the digest of the weights and the loss curve.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Trainer, set_seed

from infra_lib.checksums import damage, folder_digests
from infra_lib.device import check_device
from infra_lib.errors import DataError, ModelError, ParameterError
from infra_lib.files import digest_of, file_digest, read_sealed, replace_folder, write_sealed
from infra_lib.finetune import train_quietly, trainer_arguments
from infra_lib.jobs import run_jobs
from infra_lib.models import save_model
from infra_lib.provenance import environment
from infra_lib.sources.small_world import pretraining_documents, train_tokenizer


@dataclass(frozen=True)
class PretrainConfig:
    """Size of the model and of its training.

    Attributes
    ----------
    tokens
        Tokens of text.
    epochs
        Times that the text is read, in another order each time.
    hidden, layers, heads, intermediate
        Shape of the Qwen2 model.
    block
        Tokens per packed sequence.
    batch
        Sequences per optimiser step: few, since many small steps learn where few large ones do not.
    learning_rate, weight_decay, warmup_steps
        Of AdamW; the rate decays linearly to zero.
    precision
        ``float32``, or ``tf32`` on a GPU.
    """

    tokens: int = 6_500_000
    epochs: int = 1
    hidden: int = 96
    layers: int = 4
    heads: int = 3
    intermediate: int = 256
    block: int = 320
    batch: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    precision: str = "float32"


@dataclass(frozen=True)
class _Job:
    config: PretrainConfig
    seed: int
    folder: Path
    device: str


def pretrain(
    config: PretrainConfig, seed: int, folder: Path, *, device: str = "cpu", progress: bool = True
) -> Path:
    """Train one base model and return its folder; an interrupted training continues.

    Parameters
    ----------
    seed
        Of the documents and of the initial weights.
    folder
        Where the base goes; it is replaced as a whole at the end.
    device
        ``cpu`` or ``cuda``.

    Raises
    ------
    ParameterError
        For fewer tokens than one block, or a GPU that is not there.
    """
    if config.tokens < config.block:
        raise ParameterError("pretrain_tokens", config.tokens, f"at least one block ({config.block})")
    check_device(device)
    # Named by what is trained, so that a training is never continued as another one.
    work = folder.with_name(f".{folder.name}.{digest_of([asdict(config), seed])[:12]}.part")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    blocks = pack(config, seed, tokenizer)
    set_seed(seed)
    model = Qwen2ForCausalLM(architecture(config, tokenizer))
    trainer = Trainer(
        model=model,
        args=trainer_arguments(
            work,
            seed=seed,
            steps=-(-len(blocks) // config.batch) * config.epochs,
            epochs=config.epochs,
            batch_size=config.batch,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            warmup_steps=config.warmup_steps,
            progress=progress,
            device=device,
            save_strategy="steps",
            save_steps=500,
        ),
        train_dataset=_Blocks(blocks),
    )
    result = train_quietly(trainer, work, precision=config.precision)
    curve = [
        {"tokens": row["step"] * config.batch * config.block, "loss": row["loss"]}
        for row in trainer.state.log_history
        if "loss" in row
    ]
    final = work / "final"
    save_model(model, tokenizer, final)
    write_sealed(
        final / "provenance.json",
        {
            "what": "base model, pretrained on the small world's broad mix",
            "config": asdict(config),
            "seed": seed,
            "parameters": sum(p.numel() for p in model.parameters()),
            "tokens": blocks.numel() * config.epochs,
            "steps": result.global_step,
            "curve": curve,
            "seconds": round(result.metrics["train_runtime"], 1),
            "weights_sha256": file_digest(final / "model.safetensors"),
            "files": folder_digests(final),
            "environment": environment(device),
        },
    )
    replace_folder(final, folder)
    shutil.rmtree(work)
    return folder


def architecture(config: PretrainConfig, tokenizer: Any) -> Qwen2Config:
    """Return the configuration of a base model for the small world's tokenizer."""
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        intermediate_size=config.intermediate,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def pretrain_all(
    config: PretrainConfig,
    seeds: Sequence[int],
    root: Path,
    *,
    device: str = "cpu",
    processes: int = 2,
    progress: bool = True,
) -> list[Path]:
    """Train one base per seed into ``root/seed<N>``, side by side."""
    jobs = [_Job(config, seed, root / f"seed{seed}", device) for seed in seeds]
    return run_jobs(_pretrain_job, jobs, processes=processes, label="base models", progress=progress)


def _pretrain_job(job: _Job) -> Path:
    return pretrain(job.config, job.seed, job.folder, device=job.device, progress=False)


def pack(config: PretrainConfig, seed: int, tokenizer: Any) -> torch.Tensor:
    """Return the pretraining text as blocks of token ids, shape [blocks, block]."""

    def count(text: str) -> int:
        return len(tokenizer(text).input_ids) + 1

    stream: list[int] = []
    for document in pretraining_documents(config.tokens, seed, count):
        stream += tokenizer(document).input_ids
        stream.append(tokenizer.eos_token_id)
    blocks = len(stream) // config.block
    return torch.tensor(stream[: blocks * config.block]).view(blocks, config.block)


def verify_base(folder: Path) -> dict[str, Any]:
    """Return the provenance of a base model after checking that its files are the recorded ones.

    Raises
    ------
    ModelError
        For a folder that is missing, incomplete, or of which a file differs from the record.
    """
    try:
        record = read_sealed(folder / "provenance.json")
    except OSError as error:
        raise ModelError(f"{folder} holds no complete base model ({error}); `make base` trains it") from None
    except DataError as error:
        raise ModelError(f"{error}; `make base` trains the base model again") from None
    if damaged := damage(folder, record["files"]):
        raise ModelError(
            f"{folder}/{damaged[0]} is not the file that was recorded; restore it from version control, "
            "or train it again with `make base`"
        )
    return record


class _Blocks(torch.utils.data.Dataset):
    """Packed blocks as the Trainer asks for them."""

    def __init__(self, blocks: torch.Tensor) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks[index], "labels": self.blocks[index]}
