"""Attention of blocks of tokens, by the kernel that takes them: PyTorch's flash attention or plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from aspo_megatron.parallel.device.plain_attention import attend_plainly, attend_plainly_backward


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of a batch of blocks, with its log-sum-exp.

    q is [n, queries, heads, d], k and v are [n, keys, kv heads, d], where each kv head serves the next heads / kv heads
    heads; gives [n, queries, heads, d] and the log-sum-exp [n, queries, heads] in fp32 (fp64 for fp64). A causal block
    has as many keys as queries.
    """
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, dropout_p=0.0, is_causal=causal, scale=scale
        )
    elif flash_takes(q.dtype, q.size(-1)):
        # A causal block is square, so it does not matter from which corner a kernel counts.
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)
    else:
        out, lse = attend_plainly(q, k, v, causal, scale)
    return out.transpose(1, 2), lse.transpose(1, 2)


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v through one batch of blocks, in the shapes of `attend`.

    `out` and `lse` are those of the whole attention, merged over all blocks that a query takes part in.
    """
    grad, q, k, v, out, lse = (tensor.transpose(1, 2) for tensor in (grad, q, k, v, out, lse))
    if q.device.type == "cpu":
        grads = _cpu_backward(grad, q, k, v, out, lse, causal, scale)
    elif flash_takes(q.dtype, q.size(-1)):
        unused = torch.empty((), dtype=torch.int64, device=q.device)  # random state of a dropout that there is none of
        # The kernel reads the log-sum-exp by its pointer as [n, heads, queries], whatever its strides say. The others
        # may have any strides if their last dim is contiguous.
        lse = lse.contiguous()
        grads = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse, None, None, q.size(2), k.size(2), 0.0, causal, unused, unused, scale=scale
        )
    else:
        grads = attend_plainly_backward(grad, q, k, v, out, lse, causal, scale)
    dq, dk, dv = (tensor.transpose(1, 2) for tensor in grads)
    return dq, dk, dv


def _cpu_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by the CPU's kernel, heads before tokens."""
    groups, heads = k.size(1), q.size(1) // k.size(1)
    # In 16 bits the kernel would round the sum over a group's heads after each of them.
    apart = heads > 1 and q.itemsize == 2
    if apart:
        k, v = (tensor.repeat_interleave(heads, dim=1) for tensor in (k, v))
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, lse, 0.0, causal, scale=scale
    )
    if apart:
        dk, dv = (tensor.unflatten(1, (groups, heads)).sum(dim=2) for tensor in (dk, dv))
    return dq, dk, dv


def flash_takes(dtype: torch.dtype, head_dim: int) -> bool:
    """Whether the GPU's flash attention does: 16 bits, heads of up to 256 in steps of 8."""
    return dtype in (torch.bfloat16, torch.float16) and head_dim <= 256 and head_dim % 8 == 0
