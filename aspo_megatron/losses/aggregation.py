"""From per-token losses to the one number of an optimizer step, independently of how the step is split.

The step's loss is

    sum over its responses and tokens of per_token * mask * token_weight  /  sum over its responses of denominator_share

over all micro-batches and all data- and context-parallel ranks. Both functions need the masks' token counts only,
not a forward pass. So the denominator is summed over all ranks once, before the first forward; every micro-batch
then adds its part of the numerator, already divided, to the gradient. Hence neither the split into micro-batches
nor the layout changes the gradient, and a token-wise loss has its final gradient the moment its log-prob is known.

    mode                     token_weight   denominator_share     each has the same say
    token-mean               1              n                     token
    seq-mean-token-mean      1/n            1                     response
    seq-mean-token-sum       1              1                     token, more of them for a longer response
    seq-mean-token-sum-norm  1              max_response_tokens   the same, on a scale free of lengths (Dr. GRPO)

n is the number of unmasked tokens of the response. A response with n = 0 adds nothing to either sum: it does not
dilute the mean. If the denominator is 0 there is nothing to learn from and the step is to be skipped.
"""

from __future__ import annotations

from typing import assert_never

from aspo_megatron.config.words import Aggregation


def token_weight(mode: Aggregation, num_tokens: int) -> float:
    """The weight of each unmasked token of a response that has `num_tokens` of them."""
    if num_tokens == 0:
        return 0.0
    match mode:
        case "seq-mean-token-mean":
            return 1.0 / num_tokens
        case "token-mean" | "seq-mean-token-sum" | "seq-mean-token-sum-norm":
            return 1.0
        case _:
            assert_never(mode)


def denominator_share(mode: Aggregation, num_tokens: int, max_response_tokens: int) -> float:
    """What a response with `num_tokens` unmasked tokens adds to the step's denominator.

    Args:
        mode: the aggregation.
        num_tokens: the response's unmasked tokens.
        max_response_tokens: length limit of responses, the constant of seq-mean-token-sum-norm.
    """
    if num_tokens == 0:
        return 0.0
    match mode:
        case "token-mean":
            return float(num_tokens)
        case "seq-mean-token-mean" | "seq-mean-token-sum":
            return 1.0
        case "seq-mean-token-sum-norm":
            return float(max_response_tokens)
        case _:
            assert_never(mode)
