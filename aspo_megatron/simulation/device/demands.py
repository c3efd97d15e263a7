"""What kernels that read memory by its address demand of their tensors, and do not look at themselves.

An operation written in PyTorch honours strides; a kernel that is handed a pointer reads what its source assumes. Each
rule names the source that it was read from (PyTorch 2.13 and 2.11).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aspo_megatron.parallel.device import rotary  # noqa: F401  # defines its operations
from aspo_megatron.parallel.log_prob import triton_ops  # noqa: F401  # the same
from aspo_megatron.simulation.device.devices import on_gpu

aten = torch.ops.aten
_TAKES_BOTH = {
    aten._to_copy.default,
    aten.copy_.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
}
"""Operations that may have tensors of the CPU, which they copy, beside those of the device."""
_SHORT = (torch.bfloat16, torch.float16)
_MOST_HEAD_DIM = 256


class DemandError(Exception):
    """A kernel would read something else than what is meant."""


def check_demands(func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], writes: list[Tensor]) -> None:
    """Hold an operation's arguments, its `tensors` among them, against its kernel's demands.

    Raises:
        DemandError: names the operation, the argument and the demand.
    """
    if func not in _TAKES_BOTH and any(tensor.dim() and not on_gpu(tensor) for tensor in tensors):
        raise DemandError(f"{func}: takes tensors of one device, and one of them is on the CPU")
    if any(_overlaps(tensor) for tensor in writes):
        raise DemandError(f"{func}: writes several elements to one place")
    rule = _RULES.get(func)
    if rule is not None:
        arguments = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        rule(str(func), arguments)


def _overlaps(tensor: Tensor) -> bool:
    return any(size > 1 and not step for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def _product(name: str, arguments: dict[str, Any]) -> None:
    """Blas.cpp: factors of one floating dtype."""
    factors = [value for key, value in arguments.items() if isinstance(value, Tensor) and key != "out"]
    if len({factor.dtype for factor in factors}) > 1 or not factors[0].dtype.is_floating_point:
        raise DemandError(f"{name}: takes factors of one floating dtype, not {[factor.dtype for factor in factors]}")
    if "out" in arguments:
        _product_out(name, arguments)


def _indexed(name: str, arguments: dict[str, Any]) -> None:
    """Indexing.cu, IndexKernel.cu: what is written has the dtype of what it is written to."""
    source = arguments.get("source", arguments.get("values"))
    if isinstance(source, Tensor) and source.dtype != arguments["self"].dtype:
        raise DemandError(f"{name}: writes {source.dtype} to {arguments['self'].dtype}")


def _flash_forward(name: str, arguments: dict[str, Any]) -> None:
    """aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_fwd."""
    q, k, v = (arguments[key] for key in ("query", "key", "value"))
    for key in ("query", "key", "value"):
        _flash_tensor(name, key, arguments[key])
    if not q.dtype == k.dtype == v.dtype:
        raise DemandError(f"{name}: query, key and value must have one dtype")
    heads, kv_heads = q.size(1), k.size(1)  # of rows side by side, too
    if heads % kv_heads or kv_heads != v.size(1):
        raise DemandError(f"{name}: {kv_heads} key heads do not divide {heads} query heads")


def _flash_backward(name: str, arguments: dict[str, Any]) -> None:
    """flash_api.cpp, mha_bwd; attention_backward.cu, _flash_attention_backward, makes grad_out and out contiguous.

    flash_bwd_kernel.h reads the log-sum-exp as [batch, heads, queries] without strides.
    """
    _flash_forward(name, arguments)
    _flash_upstream(name, arguments, list(arguments["query"].shape[:3]))


def _varlen_forward(name: str, arguments: dict[str, Any]) -> None:
    """flash_api.cpp, mha_varlen_fwd: as mha_fwd, of rows side by side, with bounds of the segments."""
    _flash_forward(name, arguments)
    for key, rows in (("cum_seq_q", "query"), ("cum_seq_k", "key")):
        bounds = arguments[key]
        if bounds is None or arguments[rows].dim() != 3:
            raise DemandError(f"{name}: takes {rows} as [tokens, heads, head_dim] and their bounds, {key}")
        if bounds.dtype != torch.int32 or not bounds.is_contiguous():
            raise DemandError(f"{name}: {key} must be int32 and contiguous; it is {bounds.dtype}")
    if arguments["cum_seq_q"].shape != arguments["cum_seq_k"].shape:
        raise DemandError(f"{name}: as many segments of queries as of keys")


def _varlen_backward(name: str, arguments: dict[str, Any]) -> None:
    """flash_api.cpp, mha_varlen_bwd: flash_bwd_kernel.h reads the log-sum-exp as [heads, tokens] without strides."""
    _varlen_forward(name, arguments)
    tokens, heads = arguments["query"].shape[:2]
    _flash_upstream(name, arguments, [heads, tokens])


def _flash_upstream(name: str, arguments: dict[str, Any], shape: list[int]) -> None:
    lse = arguments["logsumexp"]
    if lse.dtype != torch.float32 or not lse.is_contiguous() or list(lse.shape) != shape:
        raise DemandError(
            f"{name}: logsumexp must be fp32, contiguous and {shape}; it is {lse.dtype}, {list(lse.shape)} "
            f"with strides {list(lse.stride())}"
        )
    for key in ("grad_out", "out"):
        if arguments[key].dtype != arguments["query"].dtype:
            raise DemandError(f"{name}: {key} must have query's dtype")


def _flash_tensor(name: str, key: str, tensor: Tensor) -> None:
    if tensor.dtype not in _SHORT:
        raise DemandError(f"{name}: {key} is {tensor.dtype}; the kernel computes in 16 bits")
    if tensor.stride(-1) != 1:
        raise DemandError(f"{name}: {key} must be contiguous in its last dimension, not of stride {tensor.stride(-1)}")
    if tensor.size(-1) > _MOST_HEAD_DIM or tensor.size(-1) % 8:
        raise DemandError(f"{name}: heads of {tensor.size(-1)} are not a multiple of 8 up to {_MOST_HEAD_DIM}")


def _product_out(name: str, arguments: dict[str, Any]) -> None:
    """aten/src/ATen/native/cuda/Blas.cpp: a result of another layout is a copy made behind the caller's back."""
    out = arguments["out"]
    if out.dim() == 2 and not (out.is_contiguous() or out.t().is_contiguous()):
        rows = out.stride(1) == 1 and out.stride(0) >= out.size(1)
        if not rows:
            raise DemandError(f"{name}: out has strides {list(out.stride())}, which no product can write to")


def _wide_product(name: str, arguments: dict[str, Any]) -> None:
    """Blas.cpp, _mm_dtype_out_cuda and _addmm_dtype_out_cuda: factors of 16 bits and one dtype, any result."""
    one, other, wanted = arguments.get("mat1", arguments["self"]), arguments["mat2"], arguments["out_dtype"]
    if one.dtype != other.dtype or one.dtype not in _SHORT or wanted not in (torch.float32, one.dtype):
        raise DemandError(f"{name}: takes 16-bit factors of one dtype, not {one.dtype} and {other.dtype} for {wanted}")
    if "mat1" in arguments and arguments["self"].dtype != wanted:
        raise DemandError(f"{name}: adds to {arguments['self'].dtype}, not to {wanted}")
    out = arguments.get("out")
    if out is not None:
        _product_out(name, arguments)
        if out.dtype != wanted:
            raise DemandError(f"{name}: out is {out.dtype}, not {wanted}")


def _log_prob(name: str, arguments: dict[str, Any]) -> None:
    """parallel/log_prob/triton_kernels.py: strides between rows and of the loss's derivatives alone are honoured."""
    logits, local = arguments["logits"], arguments["local"]
    rows = {key: arguments[key] for key in ("logits", "stats", "out") if key in arguments}
    tokens = {key: arguments[key] for key in ("base", "log_scale", "entropy") if key in arguments}
    if logits.dtype not in (torch.float32, torch.float64):
        raise DemandError(f"{name}: logits are {logits.dtype}, not fp32 or fp64")
    for key, tensor in (rows | tokens).items():
        if tensor.stride(-1) != 1:
            raise DemandError(f"{name}: {key} has stride {tensor.stride(-1)} in its last dimension, not 1")
        if key != "out" and tensor.dtype != logits.dtype:
            raise DemandError(f"{name}: {key} is {tensor.dtype} for logits of {logits.dtype}")
    if local.dtype != torch.int64 or not local.is_contiguous():
        raise DemandError(f"{name}: local must be contiguous int64, it is {local.dtype} with strides {local.stride()}")
    if "out" in arguments and arguments["out"].shape != logits.shape:
        raise DemandError(f"{name}: out is {list(arguments['out'].shape)} for logits of {list(logits.shape)}")
    if any(len(tensor) != len(logits) for tensor in (local, *tokens.values())):
        raise DemandError(f"{name}: there must be one number for each of {len(logits)} tokens")


def _rotary(name: str, arguments: dict[str, Any]) -> None:
    """parallel/device/triton_rotary.py: the projection's stride between tokens alone is honoured."""
    given = {key: value for key, value in arguments.items() if isinstance(value, Tensor)}
    projection = given.pop("projection", None)
    if projection is not None and not projection[:1].is_contiguous():
        raise DemandError(f"{name}: each token's projection must be contiguous, not of strides {projection.stride()}")
    for key, tensor in given.items():
        if not tensor.is_contiguous():
            raise DemandError(f"{name}: {key} must be contiguous; it has strides {tensor.stride()}")
    keys, table = given.get("k", given.get("by_k")), given["table"]
    assert keys is not None
    if table.dtype not in (torch.float32, torch.float64) or table.numel() != len(keys) * keys.shape[2]:
        raise DemandError(f"{name}: the table must be fp32 or fp64, a head's numbers for each of {len(keys)} tokens")


_RULES: dict[Any, Callable[[str, dict[str, Any]], None]] = {
    aten._scaled_dot_product_flash_attention.default: _flash_forward,
    aten._scaled_dot_product_flash_attention_backward.default: _flash_backward,
    aten._flash_attention_forward.default: _varlen_forward,
    aten._flash_attention_backward.default: _varlen_backward,
    aten.mm.default: _product,
    aten.mm.out: _product,
    aten.addmm.default: _product,
    aten.addmm.out: _product,
    aten.addmm_.default: _product,
    aten.bmm.default: _product,
    aten.baddbmm.default: _product,
    aten.index_add_.default: _indexed,
    aten.index_add.default: _indexed,
    aten.index_copy_.default: _indexed,
    aten.index_copy.default: _indexed,
    aten.index_put_.default: _indexed,
    aten.index_put.default: _indexed,
    aten.mm.dtype: _wide_product,
    aten.mm.dtype_out: _wide_product,
    aten.addmm.dtype: _wide_product,
    aten.addmm.dtype_out: _wide_product,
    torch.ops.aspo_megatron.log_prob_sums.default: _log_prob,
    torch.ops.aspo_megatron.log_prob_gradient.default: _log_prob,
    torch.ops.aspo_megatron.rotate_heads.default: _rotary,
    torch.ops.aspo_megatron.rotate_heads_back.default: _rotary,
}
