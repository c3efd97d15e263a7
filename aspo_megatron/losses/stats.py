"""What every loss on the importance ratio logs, under the same names, so that curves of two losses can be compared."""

from __future__ import annotations

from torch import Tensor

from aspo_megatron.losses import kl
from aspo_megatron.losses.base import Stat
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights


def ratio_stats(tokens: RatioTokens, clip_range: ClipRange, weights: Weights) -> dict[str, Stat]:
    """Means over unmasked tokens; `pos` and `neg` count only tokens with A > 0 and A < 0.

    - `clip/pos_high`, `clip/neg_low`: share with r above the range for A > 0, below it for A < 0: no gradient.
    - `clip/pos_low`, `clip/neg_high`: share outside the range on the other side: these keep a gradient.
    - `clip/dual`: share, among tokens that the range keeps (A = 0 left out), at which the cap `dual_clip` acts.
    - `clip/fraction`: share of all tokens that lose their gradient: by the range, a cap that drops it, or the bound.
    - `weight/pos`, `weight/neg`: w where the gradient is -A * w * grad log pi; 0 at tokens without gradient.
    - `ratio/pos`, `ratio/neg`: r = pi / pi_old.
    - `approx_kl`: k3 estimate of KL(pi_old || pi) in nats.
    """
    mask = tokens.mask
    positive = mask & (tokens.advantages > 0)
    negative = mask & (tokens.advantages < 0)
    above = tokens.ratio > clip_range.upper
    below = tokens.ratio < clip_range.lower
    kept = (positive | negative) & ~clip_range.outside(tokens)
    quantities = {
        "clip/pos_high": (above, positive),
        "clip/pos_low": (below, positive),
        "clip/neg_low": (below, negative),
        "clip/neg_high": (above, negative),
        "clip/dual": (weights.capped, kept),
        "clip/fraction": (weights.dropped, mask),
        "weight/pos": (weights.gradient, positive),
        "weight/neg": (weights.gradient, negative),
        "ratio/pos": (tokens.ratio, positive),
        "ratio/neg": (tokens.ratio, negative),
        "approx_kl": (kl.k3(tokens.log_ratio), mask),
    }
    return {name: _stat(values.to(tokens.ratio.dtype), where) for name, (values, where) in quantities.items()}


def _stat(values: Tensor, where: Tensor) -> Stat:
    """Zeros where nothing counts: values * where must not meet an inf there (inf * 0 is NaN)."""
    return Stat(values.masked_fill(~where, 0.0), where)
