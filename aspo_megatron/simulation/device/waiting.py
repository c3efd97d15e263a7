"""Operations on a GPU that the host waits for, though they look like any other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aspo_megatron.simulation.device.devices import on_gpu

aten = torch.ops.aten
_SIZED_BY_VALUES = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
}
_PUTS_BY_INDEX = {
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index_put.default,
}


def is_sized_by_values(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the size of the result depends on values, so that the host must know them."""
    if func in (aten.index.Tensor, aten._unsafe_index.Tensor):
        return _has_mask(args[1])
    if func is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    return func in _SIZED_BY_VALUES


def waits_for_value(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether its implementation for CUDA reads a value on the host, though the result's size does not depend on it."""
    if func in _PUTS_BY_INDEX:
        # TensorAdvancedIndexingUtils.h: one number of the CPU is filled in by the mask, all else goes by nonzero.
        accumulates = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
        one_of_host = args[2].numel() == 1 and not on_gpu(args[2]) and not accumulates
        return _has_mask(args[1]) and not one_of_host
    if func in (aten.masked_fill.Tensor, aten.masked_fill_.Tensor):
        return on_gpu(args[2])
    if func is aten._grouped_mm.default:  # GroupedBlas.cpp: other products are made one by one, of sizes read here
        return bool(args[0].dtype != torch.bfloat16)
    if func is aten.multinomial.default:
        return not (args[2] if len(args) > 2 else kwargs.get("replacement", False))
    if func is aten.histc.default:
        given = dict(zip(("min", "max"), args[2:], strict=False)) | kwargs
        return bool(given.get("min", 0) == given.get("max", 0))
    return False


def _has_mask(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
