"""megatron's self-attention with our kernel between the projection and core attention (`parallel/device/rotary.py`)."""

from __future__ import annotations

from typing import Any

from megatron.core.tensor_parallel.mappings import all_gather_last_dim_from_tensor_parallel_region
from megatron.core.transformer.attention import SelfAttention
from torch import Tensor

from aspo_megatron.parallel.device.rotary import HeadNorms, rotated_heads
from aspo_megatron.parallel.model.attention import SpanAttentionParams


class FusedHeadsAttention(SelfAttention):
    """Weights, products and recomputation of core attention are megatron's; norms of heads lend their weights alone.

    Its rotary positions are the table of `rotary_table`, not angles.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._normed = self.config.qk_layernorm
        # Backward keeps the projection for the norms anyway; values that are a part of it cost nothing then.
        self.core_attention.copies_values = not self._normed

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        rotary_pos_emb: Tensor | None = None,
        packed_seq_params: SpanAttentionParams | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states [S, 1, hidden] -> the same, and no bias. What else megatron hands over is for inference."""
        assert rotary_pos_emb is not None
        heads = self._heads(hidden_states, rotary_pos_emb)
        if self.checkpoint_core_attention and self.training:
            out = self._checkpointed_attention_forward(*heads, attention_mask, packed_seq_params=packed_seq_params)
        else:
            out = self.core_attention(*heads, attention_mask, packed_seq_params=packed_seq_params)
        projected: tuple[Tensor, Tensor | None] = self.linear_proj(out)
        return projected

    def _heads(self, hidden_states: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [T, 1, heads, d], keys and values [T, 1, kv heads, d]."""
        mixed, _ = self.linear_qkv(hidden_states)
        ranks, groups = self.world_size, self.config.num_query_groups
        mine = slice(None)
        if groups < ranks:  # several ranks share a group: each gets all of it, and takes its own queries
            mixed = all_gather_last_dim_from_tensor_parallel_region(mixed, group=self.tp_group)
            rank, sharing = self.tp_group.rank(), ranks // groups
            mixed = mixed.unflatten(-1, (groups, -1))[:, :, rank // sharing]
            if self._normed:  # without a copy backward would keep all groups
                mixed = mixed.contiguous()
            own = self.num_attention_heads_per_partition // sharing
            mine = slice(rank % sharing * own, (rank % sharing + 1) * own)
        group = self.num_attention_heads_per_partition // self.num_query_groups_per_partition
        projection = mixed.view(len(mixed), self.num_query_groups_per_partition, -1)
        norms = None
        if self._normed:
            norms = HeadNorms(self.q_layernorm.weight, self.k_layernorm.weight, self.config.layernorm_epsilon)
        query, key, value = rotated_heads(projection, table, norms, group)
        return query[:, mine].unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
