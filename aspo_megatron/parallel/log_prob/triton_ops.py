"""Operations of PyTorch that launch the kernels of `triton_kernels.py`, each one kernel of the device.

They need no Triton before the first of them runs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aspo_megatron.parallel.device.triton_calls import define_operation, kernels_in

_KERNELS = "aspo_megatron.parallel.log_prob.triton_kernels"
_BLOCK = 4096
"""Columns at a time: of 4 bytes, 16 of them for each thread of 8 warps."""
_WARPS = 8


def token_sums(logits: Tensor, local: Tensor, stats: Tensor, temperature: float) -> None:
    """Fill `stats` with sums over each token's logits.

    With m = max z and t = (z - m) / `temperature` these are m, sum exp(t), sum exp(t) t and the target's t.

    Args:
        logits: z, [n, columns] fp32 (fp64), contiguous along columns, of which there is one at least.
        local: [n] int64, contiguous: each target's column; one beyond them is another rank's.
        stats: [4, n] in the dtype of the logits, contiguous along n. The last is 0 for another rank's target.
        temperature: above 0.
    """
    torch.ops.aspo_megatron.log_prob_sums(logits, local, stats, temperature)


def logit_gradient(
    logits: Tensor,
    out: Tensor,
    local: Tensor,
    base: Tensor,
    log_scale: Tensor,
    by_log_prob: Tensor,
    by_entropy: Tensor | None,
    entropy: Tensor,
    temperature: float,
) -> None:
    """Write the gradient of undivided logits z to `out`, rounded once.

    With log p = (z - base) / `temperature` + log_scale it is (g [v = y] - p (g + g' (log p + H))) / `temperature`, and
    p log p is 0 where p is.

    Args:
        logits: z, [n, columns] fp32 (fp64), contiguous along columns, of which there is one at least.
        out: [n, columns] of any floating dtype, contiguous along columns. It may be `logits` itself.
        local: [n] int64, contiguous: each target's column; one beyond them is another rank's.
        base: [n] in the dtype of the logits, contiguous.
        log_scale: the same.
        by_log_prob: g, [n], floating.
        by_entropy: g', [n], floating, or None for zero.
        entropy: H, as `base`.
        temperature: above 0.
    """
    torch.ops.aspo_megatron.log_prob_gradient(
        logits, out, local, base, log_scale, by_log_prob, by_entropy, entropy, temperature
    )


def _launch_sums(logits: Tensor, local: Tensor, stats: Tensor, temperature: float) -> None:
    tokens, columns = logits.shape
    if not tokens:
        return
    kernels = kernels_in(_KERNELS, logits.device)
    kernels.token_sums[(tokens,)](
        logits,
        local,
        stats,
        logits.stride(0),
        stats.stride(0),
        columns,
        1.0 / temperature,
        size=_block(columns),
        num_warps=_WARPS,
    )


def _launch_gradient(
    logits: Tensor,
    out: Tensor,
    local: Tensor,
    base: Tensor,
    log_scale: Tensor,
    by_log_prob: Tensor,
    by_entropy: Tensor | None,
    entropy: Tensor,
    temperature: float,
) -> None:
    tokens, columns = logits.shape
    if not tokens:
        return
    block = _block(columns)
    blocks = -(-columns // block)
    kernels = kernels_in(_KERNELS, logits.device)
    kernels.logit_gradient[(tokens * blocks,)](
        logits,
        out,
        local,
        base,
        log_scale,
        by_log_prob,
        by_entropy,
        entropy,
        logits.stride(0),
        out.stride(0),
        by_log_prob.stride(0),
        0 if by_entropy is None else by_entropy.stride(0),
        columns,
        blocks,
        1.0 / temperature,
        size=block,
        num_warps=_WARPS,
    )


def _block(columns: int) -> int:
    """Columns of a program: no more than there are, up to a power of 2."""
    return min(_BLOCK, 1 << (columns - 1).bit_length())


define_operation("log_prob_sums(Tensor logits, Tensor local, Tensor(a!) stats, float temperature) -> ()", _launch_sums)
define_operation(
    "log_prob_gradient(Tensor logits, Tensor(a!) out, Tensor local, Tensor base, Tensor log_scale, "
    "Tensor by_log_prob, Tensor? by_entropy, Tensor entropy, float temperature) -> ()",
    _launch_gradient,
)
