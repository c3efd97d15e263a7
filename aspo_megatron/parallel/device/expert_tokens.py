"""Tokens in the order of the experts that they go to, without waiting for a GPU to count them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Permuted = tuple[Tensor | None, ...]
"""Tokens in their new order, their weights, where they come from; from megatron-core 0.17 on also where they were
padded, and the tokens of each expert."""


def permute_by_known_count(permute: Callable[..., Permuted]) -> Callable[..., Permuted]:
    """Of megatron-core (transformer/moe/moe_utils.py): it selects by a mask, and the host waits for how many are true.

    Where every token goes to the same number of experts the caller knows that beforehand, and says so.
    """
    tells_counts = "tokens_per_expert" in inspect.signature(permute).parameters

    @functools.wraps(permute)
    def permute_with_count(
        tokens: Tensor,
        routing_map: Tensor,
        probs: Tensor | None = None,
        num_out_tokens: int | Tensor | None = None,
        fused: bool = False,
        drop_and_pad: bool = False,
        **options: Any,
    ) -> Permuted:
        if fused or drop_and_pad or not isinstance(num_out_tokens, int):
            return permute(
                tokens,
                routing_map,
                probs=probs,
                num_out_tokens=num_out_tokens,
                fused=fused,
                drop_and_pad=drop_and_pad,
                **options,
            )
        by_expert = routing_map.bool().t().flatten()
        chosen = torch.nonzero_static(by_expert, size=num_out_tokens).squeeze(1)
        source = chosen % len(tokens)
        weights = None if probs is None else probs.t().flatten().index_select(0, chosen)
        permuted = tokens.index_select(0, source), weights, source
        return (*permuted, None, options.get("tokens_per_expert")) if tells_counts else permuted

    return permute_with_count
