"""Attention over packed spans, without a mask of tokens x tokens and without Transformer Engine.

The spans of a micro-batch become blocks: a run of queries attends to a run of keys, causally or wholly. Blocks of
equal shape are batched. Each block gives its output and its log-sum-exp, and a query that lies in two blocks (its
own span, and its prompt's) merges them, out = sum_b exp(lse_b - lse) out_b. In backward each block needs only the
merged output and log-sum-exp, because its probabilities are exp(score - lse). Memory is linear in tokens.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from aspo_megatron.data.packing import Span
from aspo_megatron.parallel.platform import attend, attend_backward


@dataclass(frozen=True)
class Block:
    """Blocks of one shape: `queries` [n, q] and `keys` [n, k] are packed token indices."""

    queries: Tensor
    keys: Tensor
    causal: bool


@dataclass
class SpanAttentionParams(PackedSeqParams):
    """What core attention needs to know of a micro-batch.

    It travels as megatron's `packed_seq_params`, in the `sbhd` format: tokens are [T, 1, heads, head_dim], and
    rotary positions are already those of each token.
    """

    qkv_format: str = "sbhd"
    blocks: list[Block] = field(default_factory=list)


def plan_blocks(spans: Sequence[Span], device: torch.device) -> SpanAttentionParams:
    """The blocks of a micro-batch; made once, used by every layer."""
    causal: dict[int, list[int]] = defaultdict(list)
    runs: list[tuple[int, int, int, int]] = []  # queries and keys of neighbouring responses to one prompt
    for span in spans:
        causal[span.stop - span.start].append(span.start)
        if span.prefix_stop > span.prefix_start:
            if runs and runs[-1][1] == span.start and runs[-1][2:] == (span.prefix_start, span.prefix_stop):
                runs[-1] = (runs[-1][0], span.stop, span.prefix_start, span.prefix_stop)
            else:
                runs.append((span.start, span.stop, span.prefix_start, span.prefix_stop))
    blocks = []
    for length, starts in sorted(causal.items()):
        tokens = torch.tensor(starts, device=device)[:, None] + torch.arange(length, device=device)
        blocks.append(Block(tokens, tokens, causal=True))
    shapes: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for start, stop, key_start, key_stop in runs:
        shapes[stop - start, key_stop - key_start].append((start, key_start))
    for (queries, keys), starts_of_runs in sorted(shapes.items()):
        first = torch.tensor(starts_of_runs, device=device)
        blocks.append(
            Block(
                first[:, :1] + torch.arange(queries, device=device),
                first[:, 1:] + torch.arange(keys, device=device),
                causal=False,
            )
        )
    return SpanAttentionParams(blocks=blocks)


class SpanAttention(MegatronModule):
    """Core attention of megatron's SelfAttention for packed spans; has no parameters."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        super().__init__(config=config)
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: SpanAttentionParams | None = None,
    ) -> Tensor:
        """Queries [T, 1, heads, d], keys and values [T, 1, kv heads, d] -> [T, 1, heads * d]."""
        assert packed_seq_params is not None
        repeat = query.size(2) // key.size(2)
        if repeat > 1:
            key, value = (tensor.repeat_interleave(repeat, dim=2) for tensor in (key, value))
        out: Tensor = _BlockAttention.apply(  # type: ignore[no-untyped-call]
            query.squeeze(1), key.squeeze(1), value.squeeze(1), packed_seq_params.blocks, self.scale
        )
        return out.reshape(query.size(0), 1, -1)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        """Nothing to save."""
        return {}


class _BlockAttention(torch.autograd.Function):
    """Saves queries, keys, values and output [T, heads, d] and the log-sum-exp [T, heads]; no scores."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: list[Block], scale: float) -> Tensor:
        out = torch.zeros_like(q)
        lse = q.new_full(q.shape[:2], -math.inf, dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
        for block in blocks:
            part, part_lse = attend(q[block.queries], k[block.keys], v[block.keys], block.causal, scale)
            if block.causal:  # a query's own span comes first, and once
                out[block.queries], lse[block.queries] = part.to(out.dtype), part_lse
                continue
            old_lse = lse[block.queries]
            new_lse = torch.logaddexp(old_lse, part_lse)
            kept, added = torch.exp(old_lse - new_lse)[..., None], torch.exp(part_lse - new_lse)[..., None]
            out[block.queries] = (out[block.queries] * kept + part * added).to(out.dtype)
            lse[block.queries] = new_lse
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        grads: list[Tensor] = [torch.zeros_like(tensor) for tensor in (q, k, v)]
        for block in ctx.blocks:
            qi, ki = block.queries, block.keys
            parts = attend_backward(grad_out[qi], q[qi], k[ki], v[ki], out[qi], lse[qi], block.causal, ctx.scale)
            for grad, part, index in zip(grads, parts, (qi, ki, ki), strict=True):
                grad.index_put_((index,), part.to(grad.dtype), accumulate=True)
        return *grads, None, None
