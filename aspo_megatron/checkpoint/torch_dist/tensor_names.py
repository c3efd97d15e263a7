"""The names that a model's tensors have in a megatron distributed checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from aspo_megatron.models.family import Family
from aspo_megatron.models.mapping import ParameterRow, each_parameter, exported

OPTIMIZER = "optimizer.state"
"""The optimizer's NAME (such as exp_avg) of the weight KEY is the tensor OPTIMIZER.NAME.KEY."""

_FUSED_NORMS = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
}
"""megatron names a norm as Transformer Engine does, which computes it with the layer that follows."""


def checkpoint_keys(row: ParameterRow, layer: int, expert: int) -> tuple[str, ...]:
    """The tensors that hold a row's parameter; two where gate and up, one after the other in it, are kept apart.

    A tied output layer has the name of the embedding that it is a copy of.
    """
    if row.copy:
        return ("embedding.word_embeddings.weight",)
    name = row.megatron.replace("local_experts", "experts").format(layer=layer, expert=expert)
    for own, fused in _FUSED_NORMS.items():
        name = name.replace(own, fused)
    return (f"{name}_w", f"{name}_v") if len(row.hf) == 2 else (name,)


def all_keys(family: Family) -> Iterator[str]:
    """The tensors that hold a model's weights."""
    layers, experts = range(family.num_layers), range(family.num_experts)
    for row, layer, expert in each_parameter(exported(family.rows), layers, experts):
        yield from checkpoint_keys(row, layer, expert)
