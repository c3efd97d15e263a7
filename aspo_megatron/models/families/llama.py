"""Llama: rotary positions, RMS norms, SwiGLU, grouped-query attention, no biases. SmolLM2 is one."""

from __future__ import annotations

from aspo_megatron.models.architecture import Architecture
from aspo_megatron.models.mapping import gate_up, qkv, replicated, row_parallel, vocab

HF = "model.layers.{layer}."
MEGATRON = "decoder.layers.{layer}."

EMBEDDINGS = (
    vocab("embedding.word_embeddings.weight", "model.embed_tokens.weight"),
    vocab("output_layer.weight", "lm_head.weight", tied=False),
    # With tied embeddings the last pipeline stage holds a second copy of them.
    vocab("output_layer.weight", "model.embed_tokens.weight", tied=True, copy=True),
)
ATTENTION = (
    replicated(
        MEGATRON + "input_layernorm.weight",
        HF + "input_layernorm.weight",
        lambda shape: (shape.hidden_size,),
        te_name=MEGATRON + "self_attention.linear_qkv.layer_norm_weight",
    ),
    qkv(
        MEGATRON + "self_attention.linear_qkv.weight",
        (HF + "self_attn.q_proj.weight", HF + "self_attn.k_proj.weight", HF + "self_attn.v_proj.weight"),
    ),
    row_parallel(
        MEGATRON + "self_attention.linear_proj.weight",
        HF + "self_attn.o_proj.weight",
        lambda shape: shape.num_heads * shape.head_dim,
    ),
)
FEED_FORWARD = (
    replicated(
        MEGATRON + "pre_mlp_layernorm.weight",
        HF + "post_attention_layernorm.weight",
        lambda shape: (shape.hidden_size,),
        te_name=MEGATRON + "mlp.linear_fc1.layer_norm_weight",
    ),
    gate_up(
        MEGATRON + "mlp.linear_fc1.weight",
        (HF + "mlp.gate_proj.weight", HF + "mlp.up_proj.weight"),
        lambda shape: shape.ffn_hidden_size,
    ),
    row_parallel(MEGATRON + "mlp.linear_fc2.weight", HF + "mlp.down_proj.weight", lambda shape: shape.ffn_hidden_size),
)
FINAL_NORM = (replicated("decoder.final_layernorm.weight", "model.norm.weight", lambda shape: (shape.hidden_size,)),)

FAMILY = Architecture(model_types=("llama",), rows=(*EMBEDDINGS, *ATTENTION, *FEED_FORWARD, *FINAL_NORM))
