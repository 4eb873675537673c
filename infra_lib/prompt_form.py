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
        plain text), ``template_left_out`` (whether the tokenizer has one that is not used), ``examples``,
        and ``with_system_text``, how many of them have text for a system turn.
    """
    template = getattr(tokenizer, "chat_template", None)
    used = bool(template) if chat_template is None else chat_template
    return {
        "form": CHAT if used else PLAIN,
        "template_digest": digest_of(template) if used and template else None,
        "template_left_out": bool(template) and not used,
        "examples": len(examples),
        "with_system_text": sum(bool(example.system) for example in examples),
    }


def prompts_in_words(record: Mapping[str, Any]) -> str:
    """Return a record of :func:`describe_prompts` as sentences, with its cautions."""
    if record["form"] == CHAT:
        return f"Prompts are turns of the {CHAT} (digest {record['template_digest'][:12]})."
    return " ".join(["Prompts are plain text, without a chat template.", *cautions(record)])


def cautions(record: Mapping[str, Any]) -> list[str]:
    """Return what to look at in a record: system text that becomes plain text, or nothing."""
    if record["form"] == CHAT or not record["with_system_text"]:
        return []
    remedy = (
        "the tokenizer has one that was left out (--no-chat-template)"
        if record.get("template_left_out")
        else "put its chat_template.jinja into the model's folder"
    )
    return [
        f"Without a chat template the system text of {record['with_system_text']:,} of "
        f"{record['examples']:,} examples stands before their prompt as a paragraph: right for a base model; "
        f"for one that is tuned on chats, {remedy}."
    ]


def warn_of_cautions(record: Mapping[str, Any]) -> None:
    """Warn of each of the :func:`cautions` of a record, where no notebook shows them."""
    for caution in cautions(record):
        warnings.warn(caution, InfraWarning, stacklevel=2)
