"""Qwen3: Llama with an RMS norm on each head's query and key."""

from __future__ import annotations

from aspo_megatron.models import llama
from aspo_megatron.models.mapping import replicated

_HF = "model.layers.{}.self_attn."
_MEGATRON = "decoder.layers.{}.self_attention."

ROWS = (
    *llama.ROWS,
    replicated(_MEGATRON + "q_layernorm.weight", _HF + "q_norm.weight"),
    replicated(_MEGATRON + "k_layernorm.weight", _HF + "k_norm.weight"),
)
