"""Tiny random configurations of dense decoder families, as transformers builds them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": _LLAMA_LIKE | {"tie_word_embeddings": True},
    "qwen3": _LLAMA_LIKE | {"head_dim": 16},
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "gemma2": _LLAMA_LIKE | {"head_dim": 16},
    "gemma3_text": _LLAMA_LIKE | {"head_dim": 16},
    "phi3": _LLAMA_LIKE | {"pad_token_id": 0},
    "phi": _LLAMA_LIKE,
    "olmo2": _LLAMA_LIKE,
    "smollm3": _LLAMA_LIKE | {"pad_token_id": 0},
    "starcoder2": _LLAMA_LIKE,
    "granite": _LLAMA_LIKE,
    "stablelm": _LLAMA_LIKE,
    "cohere": _LLAMA_LIKE,
    # A family of mixtures, in which a model may have no experts at all.
    "granitemoehybrid": _LLAMA_LIKE
    | {
        "num_local_experts": 0,
        "shared_intermediate_size": 48,
        "layer_types": ["attention", "attention"],
        "mamba_n_heads": 8,
        "mamba_d_head": "auto",
    },
    # Blocks are of one kind each; those that are an MLP call it a mixer, as the others do theirs.
    "nemotron_h": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
        "mtp_layers_block_type": [],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 2,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512},
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
    },
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "word_embed_proj_dim": 32,
    },
    "falcon": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
    },
}
_GATED = {"gate_proj", "up_proj", "down_proj"}
MLP_LAYERS: dict[str, set[str]] = dict.fromkeys(FAMILIES, _GATED) | {
    "phi3": {"gate_up_proj", "down_proj"},
    "phi": {"fc1", "fc2"},
    "opt": {"fc1", "fc2"},
    "starcoder2": {"c_fc", "c_proj"},
    "gpt2": {"c_fc", "c_proj"},
    "granitemoehybrid": {"input_linear", "output_linear"},
    "nemotron_h": {"up_proj", "down_proj"},
    "gpt_neox": {"dense_h_to_4h", "dense_4h_to_h"},
    "falcon": {"dense_h_to_4h", "dense_4h_to_h"},
}
"""The linear layers of an MLP, of which each of these models has two."""
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": _LLAMA_LIKE | {"num_local_experts": 4},
    "qwen2_moe": _LLAMA_LIKE
    | {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
}


def picture_model(vocabulary: int) -> Any:
    """Return Gemma 3 as its larger checkpoints are: a text decoder beside a tower that sees pictures."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    text = FAMILIES["gemma3_text"] | {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 1}
    return build(
        "gemma3", {"text_config": text, "vision_config": vision, "mm_tokens_per_image": 4}, vocabulary
    )


def build(family: str, settings: dict[str, Any], vocabulary: int) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **settings, vocab_size=vocabulary, bos_token_id=1, eos_token_id=1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():  # weights large enough that scores stand clear of rounding
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    return model
