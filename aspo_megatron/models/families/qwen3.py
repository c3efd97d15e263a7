"""Qwen3: Llama with an RMS norm on each head's query and key."""

from __future__ import annotations

from aspo_megatron.models.architecture import Architecture
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
FAMILY = Architecture(model_types=("qwen3",), rows=(*llama.FAMILY.rows, *HEAD_NORMS), qk_norm=True)
