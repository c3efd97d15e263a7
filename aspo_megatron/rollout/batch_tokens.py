"""How many tokens the embedded engine holds at once, where the configuration leaves it open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ON_CPU = 65536
"""Tokens on a CPU."""

SHARE = 0.5
"""Of a GPU's free memory, for keys and values; the rest is for what a pass over the prompts takes, and for sampling."""


def free_bytes(device: torch.device) -> int:
    """What PyTorch can take of a GPU's memory: what nobody has, and what it keeps from tensors that are gone."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + max(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), 0)


def tokens_in(free: int, bytes_of_token: int) -> int:
    """Tokens whose keys and values may be held in so much free memory; at least one."""
    return max(int(SHARE * free) // bytes_of_token, 1)


def bytes_of_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Keys and values of a token in all layers."""
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    held: int = 2 * config.num_hidden_layers * (config.num_key_value_heads or heads) * head
    return held * dtype.itemsize
