"""The names that a model's tensors have in a megatron distributed checkpoint."""

from __future__ import annotations

from aspo_megatron.models.mapping import Row

_FUSED_NORMS = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
}
"""megatron names a norm as Transformer Engine does, which computes it with the layer that follows."""


def checkpoint_keys(row: Row, layer: int, expert: int) -> tuple[str, ...]:
    """The tensors that hold a row's parameter; two where gate and up, one after the other in it, are kept apart.

    A tied output layer has the name of the embedding that it is a copy of.
    """
    if row.copy:
        return ("embedding.word_embeddings.weight",)
    name = row.megatron.replace("local_experts", "experts").format(layer=layer, expert=expert)
    for own, fused in _FUSED_NORMS.items():
        name = name.replace(own, fused)
    return (f"{name}_w", f"{name}_v") if len(row.hf) == 2 else (name,)
