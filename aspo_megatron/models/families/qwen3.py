"""Qwen3: Llama with an RMS norm on each head's query and key."""

from __future__ import annotations

from aspo_megatron.models.families import llama
from aspo_megatron.models.families.llama import HF, MEGATRON
from aspo_megatron.models.mapping import replicated

HEAD_NORMS = tuple(
    replicated(
        f"{MEGATRON}self_attention.{letter}_layernorm.weight",
        f"{HF}self_attn.{letter}_norm.weight",
        lambda shape: (shape.head_dim,),
    )
    for letter in "qk"
)
ROWS = (*llama.ROWS, *HEAD_NORMS)
