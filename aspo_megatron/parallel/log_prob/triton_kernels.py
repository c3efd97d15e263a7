"""Triton kernels on a chunk's logits z, [tokens, columns], as the product of hidden states and weight left them.

One reads them once and leaves a few sums of each token; one reads them once more and writes their gradient. Compiled
for a GPU, the loads and stores of a thread are 16 bytes wide where rows begin at multiples of 16 elements. Launched by
`triton_ops.py` alone; imported through `kernels_in`, since a process may lack Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def token_sums(
    logits: tl.tensor,
    local: tl.tensor,
    stats: tl.tensor,
    logits_stride: tl.tensor,
    stats_stride: tl.tensor,
    columns: tl.tensor,
    inverse: tl.float64,
    size: tl.constexpr,
) -> None:
    """One program for each token: with m = max z and t = (z - m) `inverse`, its m, sum exp(t), sum exp(t) t and t_y.

    Args:
        logits: [tokens, columns] fp32 (fp64), rows `logits_stride` apart.
        local: [tokens] int64, the target's column; whatever is none of this rank's gives t_y = 0.
        stats: four rows of [tokens], `stats_stride` apart, in the dtype of the logits.
        logits_stride: see there.
        stats_stride: see there.
        columns: at least 1.
        inverse: 1 / temperature.
        size: columns at a time, a power of 2.
    """
    token = tl.program_id(0).to(tl.int64)
    line = logits + token * logits_stride
    peak = tl.load(line)  # and not -inf, which would be multiplied by sums of 0
    scale = tl.full((), inverse, peak.dtype)
    total = tl.zeros([size], peak.dtype)
    weighted = tl.zeros([size], peak.dtype)
    lanes = tl.arange(0, size)
    whole = columns // size * size
    for start in range(0, whole, size):
        z = tl.load(line + start + lanes)
        peak, total, weighted = _add(z, None, peak, total, weighted, scale)
    if whole < columns:
        inside = whole + lanes < columns
        z = tl.load(line + whole + lanes, mask=inside, other=peak)
        peak, total, weighted = _add(z, inside, peak, total, weighted, scale)
    column = tl.load(local + token)
    mine = (column >= 0) & (column < columns)
    target = tl.load(line + column, mask=mine, other=0.0)
    tl.store(stats + token, peak)
    tl.store(stats + stats_stride + token, tl.sum(total, axis=0))
    tl.store(stats + 2 * stats_stride + token, tl.sum(weighted, axis=0))
    tl.store(stats + 3 * stats_stride + token, tl.where(mine, (target - peak) * scale, 0.0))


@triton.jit
def _add(
    z: tl.tensor,
    inside: tl.tensor | None,
    peak: tl.tensor,
    total: tl.tensor,
    weighted: tl.tensor,
    scale: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """The peak of all, and the sums of each lane, with one more block, of which all lanes count or those `inside`."""
    higher = tl.maximum(peak, tl.max(z, axis=0))
    total, weighted = _rescale(total, weighted, (peak - higher) * scale)
    # The difference first: it is 0 at most in rounded numbers too, whatever a compiler contracts.
    t = (z - higher) * scale
    e = tl.exp(t) if inside is None else tl.where(inside, tl.exp(t), 0.0)
    return higher, total + e, weighted + e * t


@triton.jit
def _rescale(total: tl.tensor, weighted: tl.tensor, below: tl.tensor) -> tuple[tl.tensor, ...]:
    """Sums relative to a peak as those relative to a higher one: each t is moved by `below`."""
    factor = tl.exp(below)
    return factor * total, factor * (weighted + below * total)


@triton.jit
def logit_gradient(
    logits: tl.tensor,
    out: tl.tensor,
    local: tl.tensor,
    base: tl.tensor,
    log_scale: tl.tensor,
    by_log_prob: tl.tensor,
    by_entropy: tl.tensor,
    entropy: tl.tensor,
    logits_stride: tl.tensor,
    out_stride: tl.tensor,
    by_log_prob_stride: tl.tensor,
    by_entropy_stride: tl.tensor,
    columns: tl.tensor,
    blocks: tl.tensor,
    inverse: tl.float64,
    size: tl.constexpr,
) -> None:
    """One program for each token and block of columns: `inverse` (g [v = y] - p (g + g' (log p + H))) at each logit.

    log p is (z - base) `inverse` + log_scale. Without g', `by_entropy` is None.

    Args:
        logits: [tokens, columns] fp32 (fp64), rows `logits_stride` apart.
        out: the same in any floating dtype, rows `out_stride` apart; may be `logits`.
        local: [tokens] int64, the target's column, if it is one.
        base: [tokens] in the dtype of the logits.
        log_scale: the same.
        by_log_prob: g, [tokens] in any floating dtype, `by_log_prob_stride` apart.
        by_entropy: g', the same with `by_entropy_stride`, or None.
        entropy: H, [tokens] in the dtype of the logits.
        logits_stride: see there.
        out_stride: see there.
        by_log_prob_stride: see there.
        by_entropy_stride: see there.
        columns: at least 1.
        blocks: of a token.
        inverse: 1 / temperature.
        size: columns of a program, a power of 2.
    """
    program = tl.program_id(0)  # in one dimension: only the first may be large
    token = (program // blocks).to(tl.int64)
    start = program % blocks * size
    lanes = start + tl.arange(0, size)
    line, written = logits + token * logits_stride, out + token * out_stride
    below, offset, target = tl.load(base + token), tl.load(log_scale + token), tl.load(local + token)
    scale = tl.full((), inverse, below.dtype)
    g = tl.load(by_log_prob + token * by_log_prob_stride).to(below.dtype) * scale
    if by_entropy is not None:
        g_entropy = tl.load(by_entropy + token * by_entropy_stride).to(below.dtype) * scale
        h = tl.load(entropy + token)
    else:
        g_entropy, h = None, None
    if start + size <= columns:
        z = tl.load(line + lanes)
        tl.store(written + lanes, _gradient(z, lanes == target, below, offset, scale, g, g_entropy, h))
    else:
        inside = lanes < columns
        z = tl.load(line + lanes, mask=inside, other=below)
        tl.store(written + lanes, _gradient(z, lanes == target, below, offset, scale, g, g_entropy, h), mask=inside)


@triton.jit
def _gradient(
    z: tl.tensor,
    is_target: tl.tensor,
    base: tl.tensor,
    log_scale: tl.tensor,
    scale: tl.tensor,
    g: tl.tensor,
    g_entropy: tl.tensor | None,
    entropy: tl.tensor | None,
) -> tl.tensor:
    """At the logits of a block. Where p is 0, so is p log p."""
    log_p = (z - base) * scale + log_scale
    p = tl.exp(log_p)
    drawn = p * g if g_entropy is None else tl.where(p == 0.0, 0.0, p * (g + g_entropy * (log_p + entropy)))
    return tl.where(is_target, g, 0.0) - drawn
