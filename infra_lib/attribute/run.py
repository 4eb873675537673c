"""Run one attribution: read, load, check, score under one model or several, write.

What is written is described in :mod:`infra_lib.attribute.write`. Under ``torchrun`` all processes
read everything and score their shards (:mod:`infra_lib.distributed`), and the first one writes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from infra_lib.attribute.inputs import Inputs, read_inputs
from infra_lib.attribute.options import CURVATURE, OF_LAYERS, Options
from infra_lib.attribute.score import Scores, mean_of, score_model, score_trak
from infra_lib.attribute.write import meaning, recorded_files, write_tables
from infra_lib.curvature import partitions, weight_shape
from infra_lib.distributed import check_same, is_main, process_group, size
from infra_lib.errors import ModelError, ParameterError
from infra_lib.files import digest_of, file_digest, write_sealed
from infra_lib.models import check_model_folder, linears, load_model, load_tokenizer
from infra_lib.pretrained import readable_config
from infra_lib.provenance import environment

_UNLIKE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures")
"""Parts of a configuration in which checkpoints of one architecture may differ."""


def attribute(options: Options, *, progress: bool = True) -> Path:
    """Score every training example on every target and write the results to ``options.out``.

    Factors are kept in ``out/factors``, so a run that was interrupted, or that asks for another damping
    or level, does not fit them again.

    Raises
    ------
    ParameterError, DataError, ModelError
        Before anything heavy runs, naming the option, the file and line, or the tensor.
    NumericalError
        For scores that are not finite, all zero or all equal, that depend on the batch, or that are
        mostly rounding.
    ProcessError
        Under ``torchrun``, where another process ended.
    """
    with process_group(options.device) as device:
        options.check()
        started = time.perf_counter()
        tokenizer, inputs = _read(options)
        model, names = _load(options, options.model, device, inputs)
        architecture = type(model).__name__
        digests = {str(path): file_digest(path) for path in (options.train, options.target)}
        check_same(digest_of(list(digests.values())), "training or target examples")
        pad_id = tokenizer.pad_token_id or 0
        if options.method == "trak":
            scores = score_trak(options, model, _states(options, model, names, inputs), inputs, pad_id=pad_id)
            by_checkpoint = {}
        else:
            parts = [score_model(options, model, names, inputs, pad_id=pad_id, progress=progress)]
            for source in options.checkpoints:
                model = _load_alike(options, source, device, inputs, model, names)
                parts.append(score_model(options, model, names, inputs, pad_id=pad_id, progress=progress))
            by_checkpoint = {
                source: part.checks for source, part in zip(options.checkpoints, parts[1:], strict=True)
            }
            scores = mean_of(parts)
        if is_main():
            from infra_lib.finetune.store import model_identity  # here, since it imports the whole trainer

            record = _provenance(options, inputs, names, scores, by_checkpoint)
            record |= {"architecture": architecture, "inputs": digests, "environment": environment(device)}
            record["weights"] = [model_identity(source) for source in (options.model, *options.checkpoints)]
            record["seconds"] = round(time.perf_counter() - started, 2)
            kept = recorded_files(options.out, record)
            written = write_tables(options, tokenizer, inputs, scores)
            record["files"] = kept | {path.name: file_digest(path) for path in written}
            write_sealed(options.out / "provenance.json", record)
    return options.out


def _read(options: Options) -> tuple[Any, Inputs]:
    """Return tokenizer and examples, having checked what can be without loading a model."""
    check_model_folder(options.model, weights=False)
    for source in options.checkpoints:
        check_model_folder(source)
        _check_alike(options.model, source)
    config = readable_config(options.model).get_text_config()
    tokenizer = load_tokenizer(options.model)
    inputs = read_inputs(
        options.train,
        options.target,
        tokenizer,
        context=getattr(config, "max_position_embeddings", None),
        skip_bad=options.skip_bad,
        max_tokens=options.max_tokens or None,
    )
    return tokenizer, inputs


def _check_alike(first: str, other: str) -> None:
    one, two = (
        {key: value for key, value in readable_config(source).to_dict().items() if key not in _UNLIKE}
        for source in (first, other)
    )
    unlike = [
        f"{key} is {two.get(key)!r}, not {one.get(key)!r}"
        for key in sorted(one.keys() | two.keys())
        if one.get(key) != two.get(key)
    ]
    if unlike:
        raise ModelError(
            f"--checkpoints {other} is no checkpoint of the architecture of --model {first}: "
            f"{min(unlike, key=len)}"
        )


def _load(options: Options, source: str, device: str, inputs: Inputs) -> tuple[Any, list[str]]:
    """Return a model that can be attributed, and the names of the layers that the method differentiates by.

    Raises
    ------
    ModelError
        For weights that are not finite (in the chosen type), no such layers, or tokens it does not have.
    ParameterError
        For a memory that is too small for one layer.
    """
    model = load_model(source, dtype=getattr(torch, options.dtype), device=device)
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(f"{source}: tensor {name} holds values that are not finite in {options.dtype}")
    vocabulary = model.get_input_embeddings().num_embeddings
    rows = [*inputs.encoded, *(row for part in inputs.targets.values() for row in part)]
    highest = max(int(row.input_ids.max()) for row in rows)
    if highest >= vocabulary:
        raise ModelError(
            f"the tokenizer of {options.model} gives token {highest}, and the model {source} has tokens 0 to "
            f"{vocabulary - 1}: they do not belong together"
        )
    if options.method not in OF_LAYERS:
        return model, []
    chosen = linears(model, options.layers)
    if options.method in CURVATURE:
        try:
            partitions(chosen, options.memory_bytes, diagonal=options.method == "diagonal")
        except ParameterError as error:
            raise ParameterError("--memory", options.memory, f"{error.valid} bytes") from None
    return model, list(chosen)


def _load_alike(
    options: Options, source: str, device: str, inputs: Inputs, first: Any, names: Sequence[str]
) -> Any:
    """Return a further model, having checked that it has the same layers as the first."""
    model, found = _load(options, source, device, inputs)
    here, there = dict(model.named_modules()), dict(first.named_modules())
    if found != list(names) or any(weight_shape(here[n]) != weight_shape(there[n]) for n in names):
        raise ModelError(f"--checkpoints {source} has other layers than --model {options.model}")
    return model


def _states(
    options: Options, model: Any, names: Sequence[str], inputs: Inputs
) -> list[Mapping[str, Any]] | None:
    """Return the weights of all models, for TRAK; None where there is one."""
    if not options.checkpoints:
        return None
    # On the CPU: TRAK puts them into the model one after the other.
    states: list[Mapping[str, Any]] = [
        {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
    ]
    for source in options.checkpoints:
        states.append(_load_alike(options, source, "cpu", inputs, model, names).state_dict())
    return states


def _provenance(
    options: Options,
    inputs: Inputs,
    names: Sequence[str],
    scores: Scores,
    by_checkpoint: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    record = {
        "options": {
            key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()
        },
        "train_examples": len(inputs.train),
        "target_examples": {name: len(rows) for name, rows in inputs.targets.items()},
        "skipped": len(inputs.skipped),
        "cut_tokens": sum(row.truncated for row in inputs.encoded),
        "layers": list(names),
        "processes": size(),
        "models": 1 + len(options.checkpoints),
        "checks": dict(scores.checks),
        **meaning(options),
    }
    if by_checkpoint:
        record["checks_of_checkpoints"] = {source: dict(part) for source, part in by_checkpoint.items()}
    return record
