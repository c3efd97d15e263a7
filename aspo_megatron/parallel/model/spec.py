"""What megatron-core is told about a model: its configuration and its layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer

from aspo_megatron.config import ModelConfig
from aspo_megatron.config.words import Recompute
from aspo_megatron.errors import ConfigError
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.device.kernels import Kernels
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.parallel.model.attention import SpanAttention
from aspo_megatron.parallel.model.experts.gathered import GatheredExperts
from aspo_megatron.parallel.model.experts.router import BalancedRouter
from aspo_megatron.parallel.model.fused_heads import FusedHeadsAttention
from aspo_megatron.parallel.model.light_layer import LightLayer


class GradientFusingLayer(TransformerLayer):
    """A layer whose modules of Transformer Engine add their weights' gradients to megatron's buffer themselves.

    megatron tells them by `gradient_accumulation_fusion`, but so it tells its own linear layers too, which refuse it
    without Apex, and one of them is the output layer of every model (it holds the weight here, and never computes).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for module in self.modules():
            if hasattr(module, "fuse_wgrad_accumulation"):
                module.fuse_wgrad_accumulation = True


class LightFusingLayer(LightLayer, GradientFusingLayer):
    """Both."""


def layer_spec(family: Family, kernels: Kernels, recompute: Recompute) -> ModuleSpec:
    """Transformer Engine's layers, or megatron's own; our core attention in both."""
    options: dict[str, Any] = {
        "num_experts": family.num_experts or None,
        "moe_grouped_gemm": kernels.grouped_gemm,
        "qk_layernorm": family.qk_norm,
    }
    fusing = kernels.transformer_engine and kernels.gradient_fusion
    if kernels.transformer_engine:
        spec = get_gpt_layer_with_transformer_engine_spec(**options)
    else:
        spec = get_gpt_layer_local_spec(normalization="RMSNorm", **options)
    if recompute == "light":
        spec.module = LightFusingLayer if fusing else LightLayer
    elif fusing:
        spec.module = GradientFusingLayer
    spec.submodules.self_attention.submodules.core_attention = SpanAttention
    if kernels.triton_rotary:
        spec.submodules.self_attention.module = FusedHeadsAttention
    if family.num_experts:
        parts_of(spec.submodules.mlp).router = BalancedRouter
    if kernels.gathered_experts:
        spec.submodules.mlp = _gathered(spec.submodules.mlp)
    return spec


def _gathered(builder: Any) -> Any:
    """What builds megatron's layer of experts, for ours."""
    parts = parts_of(builder)
    if isinstance(builder, ModuleSpec):  # of a ModuleSpec whose layer it does not know megatron warns
        return SimpleNamespace(module=GatheredExperts, submodules=parts)
    return partial(GatheredExperts, submodules=parts)


def parts_of(builder: Any) -> Any:
    """The submodules of what builds a module: a ModuleSpec, or in newer megatron-core a functools.partial."""
    return builder.submodules if isinstance(builder, ModuleSpec) else builder.keywords["submodules"]


def transformer_config(
    family: Family, topology: Topology, settings: ModelConfig, kernels: Kernels
) -> TransformerConfig:
    """The sizes of `family` on the grid of `topology`.

    Options of megatron-core that give wrong results silently, or need more than is here, cannot be reached from our
    configuration; they are set here: point-to-point communication under virtual stages (`batch_p2p_comm` with
    pp=2 mixes up the stages' tensors), dropping of experts' tokens.

    Raises:
        ConfigError: for a size that has no products in the FP8 of `kernels`.
    """
    if kernels.fp8:
        _check_fp8_sizes(family, topology, kernels.fp8_recipe)
    dtype = getattr(torch, settings.dtype)
    return TransformerConfig(
        num_layers=family.num_layers,
        hidden_size=family.hidden_size,
        ffn_hidden_size=family.ffn_hidden_size,
        num_attention_heads=family.num_heads,
        num_query_groups=family.num_kv_heads,
        kv_channels=family.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=family.norm_eps,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=family.qkv_bias,
        qk_layernorm=family.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        **_layout_options(family, topology),
        # Micro-batches differ in length; megatron then asks for this dispatcher, for dense models too.
        variable_seq_lengths=topology.pp.size > 1,
        moe_token_dispatcher_type="alltoall",
        **(_expert_options(family, topology, kernels) if family.num_experts else {}),
        **_RECOMPUTE[settings.recompute](family, kernels),
        # Weights are loaded, not drawn.
        perform_initialization=False,
        use_cpu_initialization=True,
        # The loss carries the step's denominator, see parallel/update/step.py.
        calculate_per_token_loss=True,
        bias_activation_fusion=kernels.fusion,
        bias_dropout_fusion=kernels.fusion,
        masked_softmax_fusion=False,  # attention is ours
        apply_rope_fusion=kernels.rope_fusion,
        gradient_accumulation_fusion=kernels.gradient_fusion and not kernels.transformer_engine,
        fp8=kernels.fp8,
        fp8_recipe=kernels.fp8_recipe,
        # The recipe `delayed` takes maxima over ranks in each pass: over those of a replica (tp x cp), for the number
        # of passes differs between replicas.
        tp_only_amax_red=True,
    )


def _layout_options(family: Family, topology: Topology) -> dict[str, Any]:
    """How the model is split over ranks, and how its stages send each other hidden states."""
    return {
        "tensor_model_parallel_size": topology.tp.size,
        "sequence_parallel": topology.sequence_parallel,
        "context_parallel_size": topology.cp.size,
        "pipeline_model_parallel_size": topology.pp.size,
        "virtual_pipeline_model_parallel_size": topology.vpp if topology.vpp > 1 else None,
        "pipeline_model_parallel_layout": _pipeline_layout(family, topology) if topology.pp.size > 1 else None,
        "overlap_p2p_comm": topology.vpp > 1,
        "batch_p2p_comm": topology.vpp == 1,
        # megatron would wait for the whole GPU after each message, for a fault that PyTorch once had.
        "batch_p2p_sync": False,
    }


def _check_fp8_sizes(family: Family, topology: Topology, recipe: str) -> None:
    """What Transformer Engine asserts: 16 numbers (`mxfp8`: 32) at a time; whole blocks where it gathers tokens."""
    multiple = 32 if recipe == "mxfp8" else 16
    gathered = 128 if recipe == "blockwise" and topology.sequence_parallel else multiple
    heads = family.num_heads + 2 * family.num_kv_heads
    tp, etp = topology.tp.size, topology.etp.size
    sizes = [
        ("hidden_size", family.hidden_size, gathered),
        (f"the heads' width over tp={tp}", family.num_heads * family.head_dim // tp, multiple),
        (f"the width of queries, keys and values over tp={tp}", heads * family.head_dim // tp, multiple),
    ]
    if family.num_experts:
        sizes.append((f"moe_intermediate_size over etp={etp}", family.expert_ffn_size // etp, multiple))
    else:
        sizes.append((f"intermediate_size over tp={tp}", family.ffn_hidden_size // tp, multiple))
    for name, size, wanted in sizes:
        if size % wanted:
            raise ConfigError(
                f"model.kernels.fp8_recipe={recipe}: {name} is {size}, not a multiple of {wanted}; take another recipe "
                "or layout, or fp8=none"
            )


def _light_options(_: Family, kernels: Kernels) -> dict[str, Any]:
    """`light_layer.py` does the rest. megatron refuses this one for some recipes of FP8, in which little is kept."""
    if kernels.grouped_gemm and not kernels.fp8:
        return {"recompute_granularity": "selective", "recompute_modules": ["moe_act"]}
    return {}


_RECOMPUTE: dict[Recompute, Callable[[Family, Kernels], dict[str, Any]]] = {
    "none": lambda family, kernels: {},
    "light": _light_options,
    "selective": lambda family, kernels: {
        "recompute_granularity": "selective",
        "recompute_modules": ["core_attn", "moe" if family.num_experts else "mlp"],
    },
    "full": lambda family, kernels: {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
    },
}


def _expert_options(family: Family, topology: Topology, kernels: Kernels) -> dict[str, Any]:
    return {
        "num_moe_experts": family.num_experts,
        "moe_ffn_hidden_size": family.expert_ffn_size,
        "moe_router_topk": family.experts_per_token,
        # Softmax over the chosen experts alone is softmax over all, scaled to add up to 1.
        "moe_router_pre_softmax": not family.norm_topk,
        "moe_router_dtype": "fp32",
        # Its coefficient is set for each update, see parallel/update/step.py.
        "moe_router_load_balancing_type": "aux_loss",
        "moe_aux_loss_coeff": 0.0,
        "moe_grouped_gemm": kernels.grouped_gemm,
        "moe_permute_fusion": kernels.expert_fusion,
        "moe_router_fusion": kernels.expert_fusion,
        "moe_router_padding_for_quantization": kernels.fp8 is not None,
        "expert_model_parallel_size": topology.ep.size,
        "expert_tensor_parallel_size": topology.etp.size,
    }


def _pipeline_layout(family: Family, topology: Topology) -> list[list[str]]:
    stages = [["decoder"] * layers for layers in family.stage_layers(topology.parallel)]
    return [
        ["embedding"] * (number == 0) + stage + ["loss"] * (number == len(stages) - 1)
        for number, stage in enumerate(stages)
    ]
