"""Llama: rotary positions, RMS norms, SwiGLU, grouped-query attention, no biases. SmolLM2 is one."""

from __future__ import annotations

from aspo_megatron.models.mapping import gate_up, qkv, replicated, split, vocab

_HF = "model.layers.{}."
_MEGATRON = "decoder.layers.{}."

ROWS = (
    vocab("embedding.word_embeddings.weight", "model.embed_tokens.weight"),
    replicated(
        _MEGATRON + "input_layernorm.weight",
        _HF + "input_layernorm.weight",
        te_name=_MEGATRON + "self_attention.linear_qkv.layer_norm_weight",
    ),
    qkv(
        _MEGATRON + "self_attention.linear_qkv.weight",
        (_HF + "self_attn.q_proj.weight", _HF + "self_attn.k_proj.weight", _HF + "self_attn.v_proj.weight"),
    ),
    split(
        _MEGATRON + "self_attention.linear_proj.weight",
        _HF + "self_attn.o_proj.weight",
        dim=1,
        size=lambda shape: shape.num_heads * shape.head_dim,
    ),
    replicated(
        _MEGATRON + "pre_mlp_layernorm.weight",
        _HF + "post_attention_layernorm.weight",
        te_name=_MEGATRON + "mlp.linear_fc1.layer_norm_weight",
    ),
    gate_up(_MEGATRON + "mlp.linear_fc1.weight", (_HF + "mlp.gate_proj.weight", _HF + "mlp.up_proj.weight")),
    split(
        _MEGATRON + "mlp.linear_fc2.weight",
        _HF + "mlp.down_proj.weight",
        dim=1,
        size=lambda shape: shape.ffn_hidden_size,
    ),
    replicated("decoder.final_layernorm.weight", "model.norm.weight"),
    vocab("output_layer.weight", "lm_head.weight", only_if=lambda shape: not shape.tied_embeddings),
    # With tied embeddings the last pipeline stage holds a second copy of them.
    vocab("output_layer.weight", "model.embed_tokens.weight", only_if=lambda shape: shape.tied_embeddings, copy=True),
)
