"""How many operations of a GPU a layer's attention takes, whatever the lengths; at the sizes of Qwen3-8B over tp=4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from aspo_megatron.config import ParallelConfig
from aspo_megatron.data.packing import Span
from aspo_megatron.parallel.device.kernels import Kernels
from aspo_megatron.simulation.device.ledger import Ledger
from aspo_megatron.simulation.rank import simulated_rank

HEADS, KV_HEADS, HEAD_DIM = 8, 2, 128
UNEVEN = [(512, [500 * number for number in range(1, 17)])]
SHORT = [(60 + row, [30 + 4 * ((11 * row) % 64)]) for row in range(64)]
ONE = [(7, [3])]


def spans_of(groups: Sequence[tuple[int, Sequence[int]]]) -> list[Span]:
    spans: list[Span] = []
    stop = 0
    for prompt, responses in groups:
        shared = (stop, stop + prompt)
        spans.append(Span(*shared))
        stop += prompt
        for length in responses:
            spans.append(Span(stop, stop + length, *shared))
            stop += length
    return spans


def operations(ledger: Ledger) -> int:
    """Of the device, views apart."""
    counted = {name: count for name, count in ledger.calls.items() if not is_view(name)}
    ledger.calls.clear()
    return sum(counted.values())


def is_view(name: str) -> bool:
    space, operation, overload = name.split(".")
    return bool(getattr(getattr(getattr(torch.ops, space), operation), overload).is_view)


def one_layer(groups: Sequence[tuple[int, Sequence[int]]], kernels: Kernels, cp: int) -> tuple[int, int]:
    """Operations of the first context-parallel rank, forward and backward."""
    with simulated_rank(ParallelConfig()) as rank:
        from megatron.core.transformer import TransformerConfig
        from megatron.core.transformer.enums import AttnMaskType

        from aspo_megatron.parallel.model.attention import SpanAttention, plan_attention
        from aspo_megatron.parallel.model.context_parallel import context_slice
        from aspo_megatron.parallel.model.micro_batch import copied

        config = TransformerConfig(
            num_layers=1,
            hidden_size=HEADS * HEAD_DIM,
            num_attention_heads=HEADS,
            num_query_groups=KV_HEADS,
            kv_channels=HEAD_DIM,
        )
        layer = SpanAttention(config, 1, AttnMaskType.causal, "self")
        own = context_slice(spans_of(groups), cp, 0, multiple_of=8)
        plan = copied(plan_attention(own, kernels), rank.topology.platform.device)
        tokens = len(own.tokens)
        mixed = torch.empty(
            cp * tokens, 1, KV_HEADS, (HEADS // KV_HEADS + 2) * HEAD_DIM, dtype=torch.bfloat16, device="cuda"
        )
        query, key, value = mixed.requires_grad_().split([HEADS // KV_HEADS * HEAD_DIM, HEAD_DIM, HEAD_DIM], dim=3)
        query = query[:tokens].reshape(tokens, 1, HEADS, HEAD_DIM)
        operations(rank.ledger)
        out = layer(query, key, value, None, packed_seq_params=plan)
        forward = operations(rank.ledger)
        out.backward(torch.empty_like(out))
        return forward, operations(rank.ledger)


VARLEN = Kernels(attention="varlen", triton_merge=True)


@pytest.mark.parametrize("cp", [1, 2])
@pytest.mark.parametrize("kernels", [VARLEN, Kernels(attention="varlen")], ids=["triton", "eager"])
def test_operations_do_not_depend_on_lengths(kernels: Kernels, cp: int, simulated: Callable[..., Any]) -> None:
    counts = [simulated(one_layer, groups, kernels, cp) for groups in (ONE, UNEVEN, SHORT)]
    assert len(set(counts)) == 1
    forward, backward = counts[0]
    assert forward <= 40
    assert backward <= 80


def test_blocks_take_more(simulated: Callable[..., Any]) -> None:
    """So what is counted is what grows."""
    forward, backward = simulated(one_layer, SHORT, Kernels(attention="blocks"), 1)
    assert forward > 200
    assert backward > 500
