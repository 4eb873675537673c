"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) through peft, merged for what comes after."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from infra_lib.errors import ParameterError
from infra_lib.finetune.config import FinetuneConfig
from infra_lib.models import LINEAR_TYPES, load_model

INSTALL = "pip install 'infra-companion[lora]'"


def require_peft(config: FinetuneConfig) -> None:
    """Raise where adapters are asked for and peft is not installed.

    Raises
    ------
    ParameterError
        With the command that installs it.
    """
    if config.lora_rank:
        try:
            import peft  # noqa: F401
        except ImportError:
            valid = f"0, unless peft is installed: {INSTALL}"
            raise ParameterError("lora_rank", config.lora_rank, valid) from None


def add_lora(model: Any, config: FinetuneConfig) -> Any:
    """Return the model with trainable adapters on its linear layers and everything else frozen.

    Raises
    ------
    ParameterError
        For a target that names no linear layer; peft itself minds only where none of them does.
    """
    from peft import LoraConfig, get_peft_model

    check_targets(model, config.lora_targets)
    every = config.lora_targets == ("all-linear",)
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank if config.lora_alpha is None else config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if every else list(config.lora_targets),
        task_type="CAUSAL_LM",
    )
    with _without_rename_warnings():
        return get_peft_model(model, settings)


def check_targets(model: Any, targets: tuple[str, ...]) -> None:
    """Raise for a target that is the name of no linear layer of the model.

    Raises
    ------
    ParameterError
        Listing the names that there are.
    """
    if targets == ("all-linear",):
        return
    names = [name for name, module in model.named_modules() if isinstance(module, LINEAR_TYPES)]
    for target in targets:
        if not any(is_target(name, (target,)) for name in names):
            known = sorted({name.rsplit(".", 1)[-1] for name in names})
            raise ParameterError("lora_targets", target, f"all-linear, or some of {', '.join(known)}")


def is_target(name: str, targets: tuple[str, ...]) -> bool:
    """Return whether a linear layer of this name gets an adapter, as ``lora_targets`` names them."""
    return targets == ("all-linear",) or any(f".{name}".endswith(f".{target}") for target in targets)


def merge_lora(base: str | Path, adapter: Path, dtype: torch.dtype) -> Any:
    """Return the base with a saved adapter added into its weights: a plain model, ready for attribution.

    The sum is taken in float32 and rounded once to ``dtype``.
    """
    from peft import PeftModel

    with _without_rename_warnings():
        merged = PeftModel.from_pretrained(load_model(base), str(adapter)).merge_and_unload()
    return merged.to(dtype)


@contextmanager
def _without_rename_warnings() -> Iterator[None]:
    """Silence peft's questions to transformers by a name that was renamed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def save_adapter(model: Any, state: dict[str, torch.Tensor], folder: Path, base: str | Path) -> None:
    """Save adapters (safetensors) with a reference to the base that they belong to."""
    shutil.rmtree(folder, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder, state_dict=state)
