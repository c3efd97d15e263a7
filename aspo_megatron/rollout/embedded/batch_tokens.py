"""How many tokens and responses the embedded engine holds at once, where the configuration leaves it open."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch

from aspo_megatron.config import SamplingConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ON_CPU = 65536
"""Tokens on a CPU."""

SHARE = 0.5
"""Of a GPU's free memory, for keys and values; the rest is for what a pass over the prompts takes, and for sampling."""

SAMPLING_SHARE = 0.25
"""Of a GPU's free memory, for drawing a token of each response."""

_DRAWN, _SORTED = 26, 48
"""Bytes of a logit while a token is drawn: as it comes, in fp32, its log-prob, its probability in fp64 and their sums;
and with top-p or top-k, which sort the probabilities."""


def most_tokens(model: PreTrainedModel, device: torch.device) -> int:
    """Tokens that are held at once."""
    if device.type == "cpu":
        return ON_CPU
    return tokens_in(free_bytes(device), bytes_of_token(model.config, model.dtype))


def most_rows(model: PreTrainedModel, device: torch.device, sampling: SamplingConfig) -> int:
    """Responses that are generated at once, if one prompt does not ask for more; on a CPU any number."""
    if device.type == "cpu":
        return sys.maxsize
    return rows_in(free_bytes(device), model.config.vocab_size, sampling)


def free_bytes(device: torch.device) -> int:
    """What PyTorch can take of a GPU's memory: what nobody has, and what it keeps from tensors that are gone."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + max(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), 0)


def tokens_in(free: int, bytes_of_token: int) -> int:
    """Tokens whose keys and values may be held in so much free memory; at least one."""
    return max(int(SHARE * free) // bytes_of_token, 1)


def rows_in(free: int, vocab_size: int, sampling: SamplingConfig) -> int:
    """Responses for each of which a token may be drawn at once in so much free memory; at least one."""
    bytes_of_logit = _SORTED if sampling.top_k or sampling.top_p < 1.0 else _DRAWN
    return max(int(SAMPLING_SHARE * free) // (vocab_size * bytes_of_logit), 1)


def bytes_of_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Keys and values of a token in all layers."""
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    held: int = 2 * config.num_hidden_layers * (config.num_key_value_heads or heads) * head
    return held * dtype.itemsize
