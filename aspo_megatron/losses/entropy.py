"""Which tokens of a response have low entropy, relative to the rest of that response."""

from __future__ import annotations

import torch
from torch import Tensor

from aspo_megatron.losses.responses import response_of_token


def low_entropy_mask(entropy: Tensor, mask: Tensor, cu_seqlens: Tensor, quantile: float) -> Tensor:
    """Unmasked tokens whose entropy is at or below the quantile of their response's unmasked tokens.

    With quantile 0.8 these are four fifths of the tokens. A response of one unmasked token has it here. The
    tensors must hold whole responses: the quantile of a part of a response is another one.

    Args:
        entropy: of the current policy, nats, [tokens]; no gradient flows.
        mask: [tokens], bool.
        cu_seqlens: [responses + 1], int: response i holds tokens cu_seqlens[i] to cu_seqlens[i+1].
        quantile: 0 to 1.

    Returns:
        [tokens], bool; False out of the mask.
    """
    entropy = entropy.detach()
    response = response_of_token(cu_seqlens, len(entropy))
    thresholds = response_quantile(entropy, mask, cu_seqlens, quantile)
    return mask & (entropy <= thresholds[response])


def response_quantile(values: Tensor, mask: Tensor, cu_seqlens: Tensor, quantile: float) -> Tensor:
    """The quantile of each response's unmasked values, interpolated linearly, bit for bit as `torch.quantile`.

    All responses at once: no loop, no padding, no transfer to the host.

    Args:
        values: [tokens], floating point.
        mask: [tokens], bool.
        cu_seqlens: [responses + 1], int.
        quantile: 0 to 1.

    Returns:
        [responses], dtype of `values`; NaN for a response without an unmasked token.
    """
    starts, lengths = cu_seqlens[:-1].long(), cu_seqlens.diff().long()
    if len(values) == 0:
        return values.new_full((len(lengths),), torch.nan)
    response = response_of_token(cu_seqlens, len(values))
    # Sort by value, then stably by response: each response's values ascend in its own slots, the masked ones last.
    by_value = values.masked_fill(~mask, torch.inf).argsort(stable=True)
    order = by_value[response[by_value].argsort(stable=True)]
    ascending = values[order]

    counts = torch.zeros_like(lengths).index_add_(0, response, mask.long())
    ranks = values.new_full((), quantile) * (counts - 1).clamp(min=0)
    below = ranks.long()
    # An empty response at the end would point past the last token; it gets NaN below.
    first = starts.clamp(max=len(values) - 1)
    interpolated = torch.lerp(ascending[first + below], ascending[first + ranks.ceil().long()], ranks - below)
    return interpolated.masked_fill(counts == 0, torch.nan)
