"""Kernels that PyTorch has for CUDA alone, as far as memory goes: what they keep for backward, and what they give.

For another device PyTorch takes these operations apart into smaller ones, of which each keeps something.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from aspo_megatron.simulation.device.operations import present


class FusedNorm(torch.autograd.Function):
    """`aten._fused_rms_norm`: keeps its input, the weight and each row's reciprocal deviation in fp32.

    derivatives.yaml and aten/src/ATen/native/cuda/layer_norm_kernel.cu.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Of rows along the last dim."""
        deviations = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
        ctx.save_for_backward(x, weight, deviations)
        return (x * weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Of input and weight."""
        x, weight, _ = ctx.saved_tensors
        return (grad * weight).to(x.dtype), x.sum(dim=tuple(range(x.dim() - 1)), dtype=weight.dtype)


def rms_norm(x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Any:
    """In place of `torch.nn.functional.rms_norm`."""
    if weight is None or len(normalized_shape) != 1:
        return torch.rms_norm(x, list(normalized_shape), weight, eps)
    return FusedNorm.apply(x, weight)  # type: ignore[no-untyped-call]


def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Any:
    """In place of `torch.nn.functional.scaled_dot_product_attention`: flash attention takes 16 bits without a mask."""
    if attn_mask is not None or query.element_size() != 2 or options.get("dropout_p") or query.requires_grad:
        return scaled_dot_product_attention(query, key, value, attn_mask, **options)
    causal, scale = options.get("is_causal", False), options.get("scale")
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, False, scale=scale)[0]


def compiled_as_one(model: Callable[..., Any] | None = None, **_: Any) -> Any:
    """In place of `torch.compile`, called as a decorator with and without options: what it fuses is one kernel."""
    if model is None:
        return compiled_as_one

    @functools.wraps(model)
    def run(*args: Any, **kwargs: Any) -> Any:
        stand_in = present()
        with nullcontext() if stand_in is None else stand_in.ledger.one_kernel():
            return model(*args, **kwargs)

    return run
