"""Qwen2 and Qwen2.5: Llama with biases on query, key and value. DeepSeek-R1-Distill-Qwen is one."""

from __future__ import annotations

from aspo_megatron.models.architecture import Architecture
from aspo_megatron.models.families import llama
from aspo_megatron.models.families.llama import HF, MEGATRON
from aspo_megatron.models.mapping import qkv

BIASES = qkv(
    MEGATRON + "self_attention.linear_qkv.bias",
    (HF + "self_attn.q_proj.bias", HF + "self_attn.k_proj.bias", HF + "self_attn.v_proj.bias"),
    bias=True,
)
FAMILY = Architecture(model_types=("qwen2",), rows=(*llama.FAMILY.rows, BIASES), qkv_bias=True)
