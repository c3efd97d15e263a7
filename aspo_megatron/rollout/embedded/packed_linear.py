"""Linear layers of a model that generates on a CPU: their weights in the layout that oneDNN multiplies fastest.

PyTorch's own product with the few rows of a decoding step takes up to twice as long.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PackedLinear(nn.Linear):
    """An `nn.Linear` that computes with the weight that it was given last by `pack`.

    `weight` itself says what shape and dtype that has, and nothing more.
    """

    packed: Tensor | None

    def pack(self, weight: Tensor) -> None:
        """Take a copy of `weight` [out, in]."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(self.weight.dtype).contiguous(), _ROWS)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        assert self.packed is not None, "no weight was packed"
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")
        return product


_ROWS = 16
"""Rows that the layout is chosen for. It is as good for four and for hundreds."""


def packable(dtype: torch.dtype) -> bool:
    """Whether this CPU has oneDNN's kernels for weights of `dtype`: an x86 one with AVX2, for bf16 with AVX-512."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    bf16 = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or bf16


def pack_layers(model: nn.Module) -> dict[str, PackedLinear]:
    """Turn the linear layers of `model` into packed ones, which have no weight yet; by the names of their weights."""
    packed = {}
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            module.__class__ = PackedLinear
            assert isinstance(module, PackedLinear)
            module.packed = None
            packed[f"{name}.weight"] = module
    return packed
