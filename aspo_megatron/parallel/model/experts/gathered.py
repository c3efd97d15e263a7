"""A layer of experts for which no rank waits, see `routed.py`."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import checkpoint
from megatron.core.transformer.moe.moe_layer import MoELayer
from torch import Tensor

from aspo_megatron.parallel.model.experts.room import ExpertRoom, rows_set_aside
from aspo_megatron.parallel.model.experts.routed import ExpertWeights, routed_experts


class GatheredExperts(MoELayer):
    """Megatron's layer with its router and its experts' weights, computed by `routed_experts`."""

    room: ExpertRoom
    """That of the model, which sets it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sharers = parallel_state.get_expert_tensor_and_model_parallel_group()

    def forward(
        self, hidden_states: Tensor, intermediate_tensors: Any = None, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The sum of the chosen experts' outputs, [tokens, 1, hidden], and megatron's bias, of which there is none."""
        mask = None if padding_mask is None else padding_mask.transpose(0, 1)
        if self.moe_layer_recompute and torch.is_grad_enabled():
            output: Tensor = checkpoint(self._computed, False, hidden_states, mask)
        else:
            output = self._computed(hidden_states, mask)
        return output, None

    def _computed(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        probs, chosen = self.router(hidden_states, mask)
        tokens, top_k = len(hidden_states), self.config.moe_router_topk
        # As many of each row are true, which the host knows.
        places = torch.nonzero_static(chosen, size=tokens * top_k)[:, 1].view(tokens, top_k)
        weights = ExpertWeights(
            [expert.linear_fc1.weight for expert in self.experts.local_experts],
            [expert.linear_fc2.weight for expert in self.experts.local_experts],
        )
        everything = tokens * self._sharers.size()
        sizes = everything, top_k, weights.count, self.config.num_moe_experts
        rows = rows_set_aside(*sizes, self.room.factor)
        first = self.local_expert_indices[0]
        flat = hidden_states.view(tokens, -1)
        output, wanted = routed_experts(flat, probs.gather(1, places), places, weights, first, rows, self._sharers)
        self.room.note(wanted, rows)
        return output.view_as(hidden_states)
