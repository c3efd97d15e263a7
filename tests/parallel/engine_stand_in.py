"""Transformer Engine's layers in plain PyTorch, for one tensor-parallel rank: its names, and its way with gradients.

A layer's norm belongs to the product after it. With `fuse_wgrad_accumulation`, which its modules read in each forward
pass, backward adds a weight's gradient to `main_grad`, marks it as added, and gives autograd numbers without meaning.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.identity_op import IdentityOp
from torch import Tensor
from torch.nn import functional

from aspo_megatron.parallel.model import spec


class Product(torch.autograd.Function):
    """x W^T, whose weight gradient goes to `main_grad` or to autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, fused: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.weight, ctx.fused = weight, fused
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = gradients
        x, weight = ctx.saved_tensors
        grad_weight = grad.flatten(0, -2).t() @ x.flatten(0, -2)
        if ctx.fused:
            ctx.weight.main_grad.add_(grad_weight)
            ctx.weight.grad_added_to_main_grad = True
            grad_weight = torch.full_like(weight, float("nan"))
        return grad @ weight, grad_weight, None


def unfused(config: TransformerConfig) -> TransformerConfig:
    """For the classes of megatron's own that hold the weights here."""
    config = copy.copy(config)
    config.gradient_accumulation_fusion = False
    return config


class Column(ColumnParallelLinear):  # type: ignore[misc]
    def __init__(self, *sizes: int, config: TransformerConfig, **options: Any) -> None:
        super().__init__(*sizes, config=unfused(config), **options)
        self.fuse_wgrad_accumulation = config.gradient_accumulation_fusion

    def forward(self, x: Tensor, *_: Any) -> tuple[Tensor, None]:
        out = Product.apply(x, self.weight, self.fuse_wgrad_accumulation)
        return out if self.bias is None else out + self.bias, None


class NormColumn(Column):
    def __init__(self, *sizes: int, config: TransformerConfig, **options: Any) -> None:
        super().__init__(*sizes, config=config, **options)
        self.layer_norm_weight = torch.nn.Parameter(torch.ones(sizes[0]))

    def forward(self, x: Tensor, *_: Any) -> tuple[Tensor, None]:
        size = self.layer_norm_weight.shape
        return super().forward(functional.rms_norm(x, size, self.layer_norm_weight, self.config.layernorm_epsilon))


class Row(RowParallelLinear):  # type: ignore[misc]
    def __init__(self, *sizes: int, config: TransformerConfig, **options: Any) -> None:
        super().__init__(*sizes, config=unfused(config), **options)
        self.fuse_wgrad_accumulation = config.gradient_accumulation_fusion

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return Product.apply(x, self.weight, self.fuse_wgrad_accumulation), None


def layer(**options: Any) -> ModuleSpec:
    """In place of `get_gpt_layer_with_transformer_engine_spec`."""
    made = get_gpt_layer_local_spec(normalization="RMSNorm", **options)
    parts = made.submodules
    attention = parts.self_attention.submodules
    attention.linear_qkv, attention.linear_proj, parts.input_layernorm = NormColumn, Row, IdentityOp
    mlp = spec.parts_of(parts.mlp)
    if options["num_experts"]:
        expert = spec.parts_of(mlp.experts)
        expert.linear_fc1, expert.linear_fc2 = Column, Row
    else:
        mlp.linear_fc1, mlp.linear_fc2, parts.pre_mlp_layernorm = NormColumn, Row, IdentityOp
    return made


@contextmanager
def engine_stand_in() -> Iterator[None]:
    """Models that are built meanwhile have these layers, where their kernels are Transformer Engine's."""
    with mock.patch.object(spec, "get_gpt_layer_with_transformer_engine_spec", layer):
        yield
