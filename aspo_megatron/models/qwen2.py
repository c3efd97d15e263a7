"""Qwen2 and Qwen2.5: Llama with biases on query, key and value. DeepSeek-R1-Distill-Qwen is one."""

from __future__ import annotations

from aspo_megatron.models import llama
from aspo_megatron.models.mapping import qkv

_HF = "model.layers.{}.self_attn."

ROWS = (
    *llama.ROWS,
    qkv(
        "decoder.layers.{}.self_attention.linear_qkv.bias",
        (_HF + "q_proj.bias", _HF + "k_proj.bias", _HF + "v_proj.bias"),
    ),
)
