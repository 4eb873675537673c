"""Which form prompts have: turns of the tokenizer's chat template, or plain text; recorded beside results.

A model that was tuned on chats answers plain text differently, and a tokenizer without a template says
nothing of it by itself. Plain text is right for a base model, so that it is allowed, told and recorded.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from infra_lib.errors import InfraWarning
from infra_lib.examples import Example
from infra_lib.files import digest_of

CHAT, PLAIN = "chat template of the tokenizer", "plain text"
"""The two forms, as :func:`infra_lib.models.prompt_tokens` makes them."""

TURN_TOKENS = (
    "<|im_start|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<|turn>",
    "<|start_of_role|>",
    "<|start|>",
    "<|user|>",
    "<|User|>",
    "<｜User｜>",
    "<|USER|>",
    "<|START_OF_TURN_TOKEN|>",
    "[INST]",
)
"""Tokens by which templates in use mark a turn: a tokenizer that has one may have been made for chats."""


def describe_prompts(
    tokenizer: Any, examples: Sequence[Example], *, chat_template: bool | None = None
) -> dict[str, Any]:
    """Return which form the prompts of examples get, for a provenance record.

    Parameters
    ----------
    chat_template
        As :func:`infra_lib.models.encode` takes it: None is the template where the tokenizer has one.

    Returns
    -------
    dict
        ``form`` (:data:`CHAT` or :data:`PLAIN`), ``template_digest`` (of the template that is used, None for
        plain text), ``template_left_out`` (whether the tokenizer has one that is not used), ``turn_tokens``
        (of :data:`TURN_TOKENS`, those of a tokenizer that has no template), ``examples``, and
        ``with_system_text``, how many of them have text for a system turn.
    """
    template = getattr(tokenizer, "chat_template", None)
    known = {} if template else tokenizer.get_vocab()
    used = bool(template) if chat_template is None else chat_template
    return {
        "form": CHAT if used else PLAIN,
        "template_digest": digest_of(template) if used and template else None,
        "template_left_out": bool(template) and not used,
        "turn_tokens": [token for token in TURN_TOKENS if token in known],
        "examples": len(examples),
        "with_system_text": sum(bool(example.system) for example in examples),
    }


def prompts_in_words(record: Mapping[str, Any]) -> str:
    """Return a record of :func:`describe_prompts` as sentences, with its cautions."""
    if record["form"] == CHAT:
        return f"Prompts are turns of the {CHAT} (digest {record['template_digest'][:12]})."
    return " ".join(["Prompts are plain text, without a chat template.", *cautions(record)])


def cautions(record: Mapping[str, Any]) -> list[str]:
    """Return what to look at in a record: signs of a model tuned on chats whose template is not used.

    Such are system text, which becomes plain text, and tokens that mark turns where no template uses them.
    """
    if record["form"] == CHAT:
        return []
    remedy = (
        "the tokenizer has one that was left out (--no-chat-template)"
        if record.get("template_left_out")
        else "put its chat_template.jinja into the model's folder"
    )
    signs = []
    if record["with_system_text"]:
        signs.append(
            f"Without a chat template the system text of {record['with_system_text']:,} of "
            f"{record['examples']:,} examples stands before their prompt as a paragraph"
        )
    if marks := record.get("turn_tokens"):
        signs.append(
            f"The tokenizer knows {', '.join(marks)}, which mark turns of a chat, and has no template "
            "(base models often share the tokenizer of their chat models)"
        )
    return [f"{sign}: right for a base model; for one that is tuned on chats, {remedy}." for sign in signs]


def warn_of_cautions(record: Mapping[str, Any]) -> None:
    """Warn of each of the :func:`cautions` of a record, where no notebook shows them."""
    for caution in cautions(record):
        warnings.warn(caution, InfraWarning, stacklevel=2)
