"""Models and tokens: load and save a Hugging Face causal LM, encode examples, find its MLPs.

Conventions used by everything after this module:

* ``loss_mask[t]`` is True where the loss term that *predicts token t* counts: the tokens
  of the response, not those of the prompt. The first token of a sequence predicts nothing.
* Batches hold rows of like length, so that little is padded; ``rows`` says which input
  each row came from.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as hf_logging

from infra_lib.checksums import damage, names_within
from infra_lib.device import to_device
from infra_lib.errors import DataError, ModelError, shown
from infra_lib.examples import Example, is_text
from infra_lib.files import is_sealed, read_sealed, replace_folder

LINEAR_TYPES = (nn.Linear, Conv1D)
# A mixer is an MLP where its layers are called so (Nemotron-H); others are attention or a state-space model.
_MLP_PARENT = re.compile(
    r"(^|\.)(mlp|mlp_block|shared_mlp|feed_forward|ffn|fc1|fc2|mixer\.(up|down)_proj)(\.|$)"
)
# By what a module is, and not by a family's name: GraniteMoeHybrid without experts is a dense model.
_EXPERTS = re.compile(r"(Experts?|MoE|Moe|MoeBlock|Router)$")


# --- Loading and saving ------------------------------------------------------------------


def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    attn_implementation: str = "eager",
) -> Any:
    """Return a causal LM in evaluation mode, from a local folder or a hub name.

    Parameters
    ----------
    source
        Local Hugging Face folder (safetensors) or hub name.
    attn_implementation
        ``eager`` supports forward-mode AD; ``sdpa`` is faster elsewhere.

    Raises
    ------
    ModelError
        Where the folder is missing, torn, of an architecture that transformers cannot load, or lacks
        weights that the architecture has (which transformers would draw at random, with a warning).
    """
    check_model_folder(source)
    hf_logging.disable_progress_bar()
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            str(source),
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # a configuration made by anybody makes the libraries raise anything
        raise ModelError(f"cannot load a causal LM from {source}: {_first_line(error)}") from error
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(f"{source} lacks {len(missing)} weights of {type(model).__name__}: {missing[0]}, …")
    return model.to(device).eval()


def load_tokenizer(source: str | Path) -> Any:
    """Return the tokenizer of a local folder or hub name, with a padding token set.

    A folder whose configuration names the generic fast tokenizer gets just that: AutoTokenizer would
    choose by the model's architecture and put, say, Qwen's own pre-tokenization over the folder's.
    """
    try:
        loader = PreTrainedTokenizerFast if _is_generic(Path(source)) else AutoTokenizer
        tokenizer = loader.from_pretrained(str(source), trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception for a file that it cannot read
        raise ModelError(f"cannot load a tokenizer from {source}: {_first_line(error)}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _is_generic(folder: Path) -> bool:
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("tokenizer_class") in (
        "TokenizersBackend",
        "PreTrainedTokenizerFast",
    )


def check_model_folder(source: str | Path, *, weights: bool = True) -> None:
    """Raise for a local model folder that is missing or torn; hub names pass.

    Parameters
    ----------
    weights
        Read all weights too; False looks at the folder and its configuration alone.

    Raises
    ------
    ModelError
        Naming the file or tensor: no such folder, no config, no safetensors, a truncated file,
        weights that are not finite, or sizes beyond what is stored.
    """
    folder = Path(source)
    if not folder.is_dir():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not folder.parent.is_dir():
            return
        raise ModelError(f"{source} is neither a model folder nor a hub name such as Qwen/Qwen2.5-0.5B")
    if weights:
        _check_recorded(folder)
    config = _read_object(folder / "config.json")
    if not weights:
        return
    stored = numbers = 0
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (safe_open is no dictionary)
                    tensor = tensors.get_tensor(name)
                    stored, numbers = stored + 1, numbers + tensor.numel()
                    if not torch.isfinite(tensor.float()).all():
                        raise ModelError(f"{path}: tensor {name} holds values that are not finite")
        except ModelError:
            raise
        except Exception as error:  # a header made by anybody: see load_model
            raise ModelError(f"{path} is truncated or no safetensors file: {_first_line(error)}") from None
    if weights:
        _check_sizes(folder, config, stored, numbers)


def _check_recorded(folder: Path) -> None:
    """Raise for files of a model that differ from what a training or a conversion here recorded of them.

    A record that carries no seal is another program's, and none of ours; one that is torn is not used.
    """
    listed = None
    try:
        # Of a fine-tuned model, and of a base model.
        sealed = [own for name in ("run.json", "provenance.json") if (own := folder / name).is_file()]
        sealed = [own for own in sealed if is_sealed(own)]
        if sealed:
            path = sealed[0]
            listed = read_sealed(path).get("files")
        elif (path := folder / "packaged.json").is_file():
            recorded = _read_object(path).get("weights_sha256")
            listed = None if recorded is None else {"model.safetensors": str(recorded)}
    except (DataError, OSError, RecursionError) as error:
        raise ModelError(str(error)) from None
    if listed is None:
        return
    if not names_within(listed):
        raise ModelError(f"{path}: files must give digests of files in the folder")
    if changed := damage(folder, listed):
        raise ModelError(
            f"{folder / changed[0]} is missing or torn, or was changed since the model was made; make it "
            f"again, or delete {path.name} to use the folder as it is"
        )


_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "head_dim", "n_embd", "n_inner")
_HEADS = ("num_attention_heads", "num_key_value_heads", "n_head")


def _check_sizes(folder: Path, config: Mapping[str, Any], stored: int, numbers: int) -> None:
    """Raise for a configuration that asks for more than the folder stores.

    Modules are made before weights are looked for: a billion layers would be made until memory ends.
    """
    for names, most, of_what in ((_COUNTS, stored, "tensors"), (_SIZES + _HEADS, numbers, "numbers")):
        for name in names:
            if isinstance(size := config.get(name), int) and size > most:
                problem = f"{name} is {shown(size)}, more than the {most} {of_what} that the folder stores"
                raise ModelError(f"{folder}/config.json: {problem}")


def _read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a model folder."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {_first_line(error)}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object")
    return value


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder, those of its index where it has one."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        places = _read_object(index).get("weight_map")
        if not isinstance(places, dict) or not all(_is_file_name(name) for name in places.values()):
            raise ModelError(f"{index}: weight_map must give a file of the folder for every tensor")
        names = sorted(set(places.values()))
    else:
        names = ["model.safetensors"]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(f"{folder} misses {missing[0]}; weights must be stored as safetensors")
    return [folder / name for name in names]


def _is_file_name(name: object) -> bool:
    """Return whether a value names a file in a folder, and not one elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save weights (safetensors), configuration and tokenizer; the folder appears whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    replace_folder(temporary, folder)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- Encoding ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """An example in tokens.

    Attributes
    ----------
    id
        Of the example.
    input_ids
        Token ids [tokens], int64.
    loss_mask
        [tokens], True where the loss term that predicts the token counts.
    offsets
        Character span *in the response* of each token with ``loss_mask`` True, in order; an end
        token has the empty span at the response's end.
    truncated
        Response tokens that were cut off at the context's end.
    """

    id: str
    input_ids: Tensor
    loss_mask: Tensor
    offsets: tuple[tuple[int, int], ...]
    truncated: int = 0

    @property
    def n_tokens(self) -> int:
        """Number of loss-carrying tokens."""
        return len(self.offsets)


def encode(
    tokenizer: Any,
    example: Example,
    *,
    end_token: bool = False,
    chat_template: bool | None = None,
    max_tokens: int | None = None,
) -> Encoded:
    """Encode an example: prompt tokens, then response tokens that carry the loss.

    Without a chat template the sequence is ``tokenizer(prompt)`` followed by
    ``tokenizer(response, add_special_tokens=False)`` and nothing else.

    Parameters
    ----------
    end_token
        Append the tokenizer's end token to the response, with a loss term.
    chat_template
        Wrap the prompt as a user turn; None does so where the tokenizer has a template.
    max_tokens
        Cut the sequence here; the count of response tokens lost is kept.

    Raises
    ------
    DataError
        Where no loss term is left: an empty response, or a prompt that fills the context. Also for text
        that no tokenizer reads, since it holds half a surrogate pair.
    ModelError
        For a chat template that cannot be applied.
    """
    if not (is_text(example.prompt) and is_text(example.response)):
        raise DataError(shown(example.id), "holds half a surrogate pair, which is no text")
    prompt = prompt_tokens(tokenizer, example, chat_template=chat_template)
    response, offsets = _response_tokens(tokenizer, example.response)
    if end_token:
        response.append(tokenizer.eos_token_id)
        offsets.append((len(example.response), len(example.response)))
    room = len(response) if max_tokens is None else max(0, max_tokens - len(prompt))
    kept, kept_offsets = response[:room], offsets[:room]
    ids = torch.tensor(prompt + kept, dtype=torch.long)
    mask = torch.zeros(len(ids), dtype=torch.bool)
    mask[len(prompt) :] = True
    if len(prompt) == 0 and kept:
        # Nothing comes before the first token, so nothing predicts it.
        mask[0], kept_offsets = False, kept_offsets[1:]
    if not mask.any():
        raise DataError(
            example.id, "has no response token that the model predicts (empty response or full context)"
        )
    return Encoded(example.id, ids, mask, tuple(kept_offsets), truncated=len(response) - len(kept))


def prompt_tokens(tokenizer: Any, example: Example, *, chat_template: bool | None = None) -> list[int]:
    """Return the token ids of an example's prompt, the same for training on it and for answering it.

    Parameters
    ----------
    chat_template
        Wrap the prompt as a user turn, after the example's system turn if it has one, up to where the
        answer begins; None does so where the tokenizer has a template. Without a template the system
        text and an empty line stand before the prompt.

    Raises
    ------
    ModelError
        Where a template is asked for and the tokenizer has none, or the template refuses the turns.
    """
    if chat_template is None:
        chat_template = bool(getattr(tokenizer, "chat_template", None))
    if chat_template:
        return list(tokenizer(chat_text(tokenizer, example), add_special_tokens=False).input_ids)
    text = f"{example.system}\n\n{example.prompt}" if example.system else example.prompt
    return list(tokenizer(text).input_ids)


def chat_text(tokenizer: Any, example: Example) -> str:
    """Return system and user turn in the tokenizer's chat template, up to where the answer begins.

    Raises
    ------
    ModelError
        Where the tokenizer has no chat template, or its template refuses the turns (some know no
        system turn).
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "the tokenizer has no chat template; use one of an instruction-tuned model, put a "
            "chat_template.jinja into its folder, or leave the choice to the program (no --chat-template)"
        )
    turns = [{"role": "user", "content": example.prompt}]
    if example.system:
        turns.insert(0, {"role": "system", "content": example.system})
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # templates are programs of the model's authors and raise what they like
        raise ModelError(
            f"the chat template refuses example {example.id} ({_first_line(error)}); drop its system text "
            "or take a copy of the folder without a template, and prompts are plain text"
        ) from error


def _response_tokens(tokenizer: Any, response: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Return token ids of a response and their character spans, which cut the response into pieces.

    A tokenizer's own offsets need not do so: tokens for parts of one character (bytes of an emoji) all
    name that character, and white space can belong to no token. Here a token reaches from the end of
    those before it to its own end, so a character belongs to the first token that writes a part of it.
    """
    if getattr(tokenizer, "is_fast", False):
        encoding = tokenizer(response, add_special_tokens=False, return_offsets_mapping=True)
        ids, ends = list(encoding.input_ids), [int(end) for _, end in encoding.offset_mapping]
    else:
        # Slow tokenizers know no offsets: the text of growing prefixes gives them.
        ids = list(tokenizer(response, add_special_tokens=False).input_ids)
        ends = [
            len(tokenizer.decode(ids[: i + 1], clean_up_tokenization_spaces=False)) for i in range(len(ids))
        ]
    cuts = [0, *(min(end, len(response)) for end in accumulate(ends, max))]
    if ids:
        cuts[-1] = len(response)
    return ids, list(pairwise(cuts))


# --- Batches -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Padded rows.

    Attributes
    ----------
    input_ids, attention_mask, loss_mask, position_ids
        [batch, tokens].
    predicting
        Positions that predict a response token [loss terms], in reading order, counted through the whole
        batch: position t predicts token t + 1, so it carries a loss term where the mask of t + 1 is set.
    rows
        Index of each row in the encoded list.
    lengths, terms
        Tokens and loss terms of each row. They stay on the host, which must not wait for a GPU to tell.
    """

    input_ids: Tensor
    attention_mask: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    predicting: Tensor
    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    terms: tuple[int, ...]

    def to(self, device: str | torch.device) -> Batch:
        """Return the batch on a device; to a GPU it is copied while that computes."""
        fields = (self.input_ids, self.attention_mask, self.loss_mask, self.position_ids, self.predicting)
        moved = [to_device(tensor, device) for tensor in fields]
        return Batch(moved[0], moved[1], moved[2], moved[3], moved[4], self.rows, self.lengths, self.terms)

    @property
    def padded(self) -> bool:
        """Whether a row is shorter than the longest."""
        return min(self.lengths) < self.input_ids.shape[1]

    def by_row(self, values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each row's index in the encoded list and its part of values [loss terms]."""
        return zip(self.rows, np.split(values, np.cumsum(self.terms)[:-1]), strict=True)

    @property
    def labels(self) -> Tensor:
        """The response's tokens [loss terms], in reading order."""
        return self.input_ids.flatten().index_select(0, self.predicting + 1)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the model's forward takes."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }


def batches(
    encoded: Sequence[Encoded],
    *,
    batch_tokens: int,
    pad_id: int,
    padding_side: str = "right",
    sort: bool = True,
) -> list[Batch]:
    """Group rows into batches of at most ``batch_tokens`` padded tokens (at least one row each).

    Parameters
    ----------
    padding_side
        ``right`` or ``left``; results do not depend on it.
    sort
        Put rows of like length together.
    """
    order = (
        sorted(range(len(encoded)), key=lambda i: len(encoded[i].input_ids)) if sort else range(len(encoded))
    )
    groups: list[list[int]] = []
    longest = 0
    for i in order:
        length = len(encoded[i].input_ids)
        if groups and max(longest, length) * (len(groups[-1]) + 1) <= batch_tokens:
            groups[-1].append(i)
            longest = max(longest, length)
        else:
            groups.append([i])
            longest = length
    return [_pad([encoded[i] for i in group], tuple(group), pad_id, padding_side) for group in groups]


def _pad(rows: Sequence[Encoded], indices: tuple[int, ...], pad_id: int, side: str) -> Batch:
    width = max(len(row.input_ids) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    attention = torch.zeros((len(rows), width), dtype=torch.long)
    loss_mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        length = len(row.input_ids)
        at = slice(width - length, width) if side == "left" else slice(0, length)
        input_ids[i, at] = row.input_ids
        attention[i, at] = 1
        loss_mask[i, at] = row.loss_mask
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    carries = torch.nn.functional.pad(loss_mask[:, 1:], (0, 1))
    predicting = carries.flatten().nonzero().squeeze(1)
    lengths = tuple(len(row.input_ids) for row in rows)
    terms = tuple(carries.sum(1).tolist())
    return Batch(input_ids, attention, loss_mask, positions, predicting, indices, lengths, terms)


def count_response_tokens(tokenizer: Any, examples: Sequence[Example]) -> Mapping[str, int]:
    """Return the number of response tokens of each example, by id."""
    texts = [example.response for example in examples]
    rows = tokenizer(texts, add_special_tokens=False).input_ids if texts else []
    return {example.id: len(row) for example, row in zip(examples, rows, strict=True)}


# --- Linear layers -----------------------------------------------------------------------


def mlp_linears(model: Any) -> dict[str, nn.Module]:
    """Return the linear layers of the model's MLPs by name, in the order of the model.

    Raises
    ------
    ModelError
        For a mixture-of-experts model, whose experts hold their weights in one tensor and see only
        the tokens routed to them, or a model without MLP linears.
    """
    return linears(model, None)


def linears(model: Any, pattern: str | None) -> dict[str, nn.Module]:
    """Return linear layers by name: those of the MLPs, or those whose name matches ``pattern``.

    ``nn.Linear`` and GPT-2's ``Conv1D`` count; the output head never does. Of a model that sees pictures or
    hears, the MLPs are those of its text decoder.
    """
    if pattern is None and (reason := _expert_reason(model)):
        raise ModelError(reason)
    head, decoder = model.get_output_embeddings(), model.get_decoder()
    text = set((model if decoder is None else decoder).modules())
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LINEAR_TYPES)
        and module is not head
        and (re.search(pattern, name) if pattern else module in text and _MLP_PARENT.search(name))
    }
    if not found:
        sample = ", ".join([n for n, m in model.named_modules() if isinstance(m, LINEAR_TYPES)][:4])
        wanted = f"matching {pattern!r}" if pattern else "in an MLP"
        raise ModelError(
            f"{type(model).__name__} has no linear layer {wanted}; it has, for example: {sample or 'none'}; "
            "a pattern of names chooses layers (--layers)"
        )
    return found


def _expert_reason(model: Any) -> str | None:
    for name, module in model.named_modules():
        if _EXPERTS.search(type(module).__name__):
            return (
                f"{type(model).__name__} is a mixture of experts ({name}): each expert sees only the tokens "
                "routed to it, so one Kronecker factor per layer does not describe it; use a dense model"
            )
    return None


def model_config(source: str | Path) -> Any:
    """Return a model's configuration without loading its weights."""
    return AutoConfig.from_pretrained(str(source), trust_remote_code=False)
