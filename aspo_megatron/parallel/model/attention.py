"""Core attention of megatron's layers for packed spans; without a mask of tokens x tokens or Transformer Engine.

A plan says which of a micro-batch's tokens attend to which. It is made once, for all layers. `varlen_attention.py` has
that for a GPU's flash attention, `block_attention.py` that for everything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from aspo_megatron.parallel.device.kernels import Kernels
from aspo_megatron.parallel.model.block_attention import BlockPlan, plan_blocks
from aspo_megatron.parallel.model.context_parallel import ContextSlice
from aspo_megatron.parallel.model.varlen_attention import VarlenPlan, plan_varlen


@dataclass
class SpanAttentionParams(PackedSeqParams):
    """What core attention needs to know of a micro-batch.

    It travels as megatron's `packed_seq_params`, in the `sbhd` format: tokens are [T, 1, heads, head_dim], and
    rotary positions are already those of each token.
    """

    qkv_format: str = "sbhd"
    plan: BlockPlan | VarlenPlan | None = None


def plan_attention(own: ContextSlice, kernels: Kernels) -> SpanAttentionParams:
    """Which tokens this rank's queries attend to, on the CPU; made once for a micro-batch, used by every layer."""
    varlen = kernels.attention == "varlen"
    return SpanAttentionParams(plan=plan_varlen(own, kernels.triton_merge) if varlen else plan_blocks(own))


class SpanAttention(MegatronModule):
    """Core attention of megatron's SelfAttention for packed spans; has no parameters.

    Attributes:
        copies_values: values that are a part of something larger are copied, so that backward does not keep all of it.
    """

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
        self.copies_values = True
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        self.cp_group = (pg_collection or ProcessGroupCollection.use_mpu_process_groups(["cp"])).cp

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
        """Local queries [T, 1, heads, d], keys and values [T, 1, kv heads, d] -> [T, 1, heads * d]."""
        assert packed_seq_params is not None
        assert packed_seq_params.plan is not None
        if self.cp_group.size() > 1:  # forward all-gathers, backward reduce-scatters
            key, value = (gather_from_sequence_parallel_region(tensor, group=self.cp_group) for tensor in (key, value))
        # megatron gives a view of queries, keys and values together: saved for backward, it would keep all three.
        query, key, value = query.squeeze(1).contiguous(), key.squeeze(1).contiguous(), value.squeeze(1)
        if self.copies_values:
            value = value.contiguous()
        out = packed_seq_params.plan.attend(query, key, value, self.scale)
        return out.reshape(query.size(0), 1, -1)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        """Nothing to save."""
        return {}
