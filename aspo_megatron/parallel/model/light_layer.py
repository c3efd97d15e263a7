"""Layers of `model.recompute: light`: what memory alone bounds is not kept for backward, but made again there.

That is the outputs of both norms, and the product of the activation, silu(gate) * up. Each is the input of a linear
layer, which computes its weight's gradient from it. Its memory is freed when that layer has computed, and is there
again when the gradient of that layer's output comes. So it serves any linear layer that keeps its input as it is,
megatron's and Transformer Engine's. megatron's `CheckpointWithoutOutput` does it the same way, but also keeps and sets
random states, which nothing here draws from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core.fusions.fused_bias_swiglu import swiglu, swiglu_back, weighted_swiglu, weighted_swiglu_back
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor, nn
from torch.nn.functional import silu


def free_until_backward(made: Tensor, make: Callable[[], Tensor], until: Tensor) -> None:
    """Free the memory of `made` until the gradient of `until` comes; then fill it with what `make` gives.

    In between nobody may compute with `made`, which has a storage of its own. Where there will be no gradient nothing
    is done: whoever is last to have the tensor frees it.
    """
    if not until.requires_grad:
        return
    assert made.untyped_storage().nbytes() == made.nbytes
    until.register_hook(_Remade(made, make).fill)
    made.untyped_storage().resize_(0)


class _Remade:
    """A tensor without memory. Once it is filled, this lets go of it: hooks live as long as the graph."""

    def __init__(self, made: Tensor, make: Callable[[], Tensor]) -> None:
        # `.data` has no part in the graph, nor in the count of changes by which autograd would refuse the tensor.
        self._pending: tuple[Tensor, Callable[[], Tensor]] | None = made.data, make

    @torch.no_grad()
    def fill(self, _: Tensor) -> None:
        """The hook."""
        if self._pending is None:  # a second backward through the same graph
            return
        made, make = self._pending
        self._pending = None
        again = make()
        made.untyped_storage().resize_(made.nbytes)
        made.copy_(again)


class LightLayer(TransformerLayer):
    """A layer that keeps neither its norms' outputs nor the product of its activation.

    Norms that Transformer Engine has inside a linear layer keep what they keep.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for module in self.modules():
            if type(module) is MLP:
                # megatron makes it by this name: SequentialMLP each expert; and it warns of any other in a layer.
                module.__class__ = LightMLP
        dense = isinstance(self.mlp, MLP)
        _free_output(self.input_layernorm, self.self_attention.linear_qkv)
        _free_output(self.pre_mlp_layernorm, self.mlp.linear_fc1 if dense else self.mlp)


def _free_output(norm: nn.Module, consumer: nn.Module) -> None:
    """Have the output of `norm` freed when `consumer`, which nobody else computes after, has computed with it."""
    if isinstance(norm, IdentityOp):
        return
    passed: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        passed[:] = [(args[0], output)]

    def free(_: nn.Module, __: Any, output: tuple[Tensor, Any]) -> None:
        ((x, normed),) = passed
        passed.clear()
        free_until_backward(normed, partial(norm.forward, x), output[0])  # not the hooks, which are of the first pass

    norm.register_forward_hook(note)
    consumer.register_forward_hook(free)


class LightMLP(MLP):
    """A feed-forward, or an expert, that keeps gate and up alone between its linear layers."""

    def forward(
        self, hidden_states: Tensor, per_token_scale: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, Tensor | None]:
        """[..., hidden] -> the same. `per_token_scale`: of an expert, each token's weight by the router, [tokens]."""
        gate_up, _ = self.linear_fc1(hidden_states)
        scale = None if per_token_scale is None else per_token_scale.unsqueeze(-1)
        fused = self.config.bias_activation_fusion
        product = GatedProduct.apply(gate_up, scale, fused)  # type: ignore[no-untyped-call]
        output, bias = self.linear_fc2(product)
        # In FP8 Transformer Engine keeps the product in 8 bits, and not what it was given.
        if not self.config.fp8:
            free_until_backward(product, partial(_product, gate_up, scale, fused), output)
        return output, bias


class GatedProduct(torch.autograd.Function):
    """silu(gate) * up * scale in the dtype of gate and up; keeps these and the scale alone.

    `fused`: by megatron's kernels of torch.compile, which compute in one what they compute with.
    """

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, scale: Tensor | None, fused: bool) -> Tensor:
        """Gate and up together, [..., 2 x size]; `scale` [..., 1] or None."""
        ctx.save_for_backward(gate_up, scale)
        ctx.fused = fused
        return _product(gate_up, scale, fused)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Of `gate_up` and `scale`."""
        (grad,), (gate_up, scale) = gradients, ctx.saved_tensors
        if ctx.fused and scale is None:
            return swiglu_back(grad, gate_up), None, None
        if ctx.fused:
            return *weighted_swiglu_back(grad, gate_up, scale), None
        gate, up = gate_up.chunk(2, dim=-1)
        of_scale = None
        if scale is not None:
            of_scale = (grad * (silu(gate) * up).to(scale.dtype)).sum(dim=-1, keepdim=True).to(scale.dtype)
            grad = (grad * scale).to(grad.dtype)
        of_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return torch.cat((of_gate, grad * silu(gate)), dim=-1), of_scale, None


def _product(gate_up: Tensor, scale: Tensor | None, fused: bool) -> Tensor:
    if fused:
        product: Tensor = swiglu(gate_up) if scale is None else weighted_swiglu(gate_up, scale)
        return product
    gate, up = gate_up.chunk(2, dim=-1)
    product = silu(gate) * up
    return product if scale is None else (product * scale).to(gate_up.dtype)
