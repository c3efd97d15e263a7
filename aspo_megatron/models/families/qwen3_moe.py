"""Qwen3-MoE (Qwen3-30B-A3B): Qwen3 with a router and many small experts in place of each feed-forward layer."""

from __future__ import annotations

from aspo_megatron.models.architecture import Architecture
from aspo_megatron.models.families import llama
from aspo_megatron.models.families.llama import HF, MEGATRON
from aspo_megatron.models.families.qwen3 import HEAD_NORMS
from aspo_megatron.models.mapping import gate_up, replicated, row_parallel

_EXPERT = MEGATRON + "mlp.experts.local_experts.{expert}."
_HF_EXPERT = HF + "mlp.experts.{expert}."

EXPERTS = (
    replicated(
        MEGATRON + "pre_mlp_layernorm.weight",
        HF + "post_attention_layernorm.weight",
        lambda shape: (shape.hidden_size,),
    ),
    replicated(
        MEGATRON + "mlp.router.weight",
        HF + "mlp.gate.weight",
        lambda shape: (shape.num_experts, shape.hidden_size),
    ),
    gate_up(
        _EXPERT + "linear_fc1.weight",
        (_HF_EXPERT + "gate_proj.weight", _HF_EXPERT + "up_proj.weight"),
        lambda shape: shape.expert_ffn_size,
    ),
    row_parallel(_EXPERT + "linear_fc2.weight", _HF_EXPERT + "down_proj.weight", lambda shape: shape.expert_ffn_size),
)
FAMILY = Architecture(
    model_types=("qwen3_moe",),
    rows=(*llama.EMBEDDINGS, *llama.ATTENTION, *HEAD_NORMS, *EXPERTS, *llama.FINAL_NORM),
    qk_norm=True,
    experts=True,
)
