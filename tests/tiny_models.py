"""Tiny random Hugging Face models for tests: small enough to build in a second, hard enough to catch a wrong layout.

Nothing about them is trivial: norm weights are not 1, biases are not 0, there are fewer key-value heads than heads,
and no tp divides the vocabulary, so that its padding is always there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "num_key_value_heads": 6,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
"""The default sizes; tp may be 1, 2, 3, 4, 6 or 12 as far as the heads and the feed-forward size go."""


def llama_folder(path: Path, tied: bool, **sizes: Any) -> Path:
    """Save a random Llama in fp32: config.json, generation_config.json and model.safetensors, no tokenizer.

    Args:
        path: the folder to make; may exist.
        tied: one matrix for embedding and output projection.
        sizes: fields of `LlamaConfig` that differ from `SIZES`.

    Returns:
        path
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _save(LlamaForCausalLM(LlamaConfig(**{**SIZES, "tie_word_embeddings": tied, **sizes})), path)


def qwen2_folder(path: Path, tied: bool, **sizes: Any) -> Path:
    """As `llama_folder`, a Qwen2: with biases on query, key and value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _save(Qwen2ForCausalLM(Qwen2Config(**{**SIZES, "tie_word_embeddings": tied, **sizes})), path)


def qwen3_folder(path: Path, tied: bool, **sizes: Any) -> Path:
    """As `llama_folder`, a Qwen3: with a norm on each head's query and key, and heads of 8 (hidden size / heads: 4)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fields = {**SIZES, "head_dim": 8, "tie_word_embeddings": tied, **sizes}
        return _save(Qwen3ForCausalLM(Qwen3Config(**fields)), path)


def qwen3_moe_folder(path: Path, **sizes: Any) -> Path:
    """As `qwen3_folder`, a Qwen3-MoE: 8 experts in each layer, 3 of them for each token."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        experts = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 12, "norm_topk_prob": True}
        fields = {**SIZES, "head_dim": 8, "tie_word_embeddings": False, **experts, **sizes}
        return _save(Qwen3MoeForCausalLM(Qwen3MoeConfig(**fields)), path)


@torch.no_grad()
def _save(model: PreTrainedModel, path: Path) -> Path:
    """Draw every parameter with standard deviation 0.1, norms around 1, and write the model."""
    for name, parameter in model.named_parameters():
        parameter.normal_(mean=1.0 if "norm" in name else 0.0, std=0.1)
    model.to(torch.float32).save_pretrained(path)
    return path
