"""The router of a mixture of experts, with a load-balancing loss that does not depend on the layout."""

from __future__ import annotations

from megatron.core.transformer.moe.moe_utils import (
    MoEAuxLossAutoScaler,
    get_tokens_per_expert_and_token_count,
    switch_load_balancing_loss_func,
)
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor


class BalancedRouter(TopKRouter):
    """Megatron's router; the loss of a micro-batch of T tokens counts coefficient x T, whatever shares the tokens.

    megatron multiplies each rank's part of that loss by the tokens of that rank, so that it shrinks with tp and cp. The
    coefficient is set for each update, over the update's number of tokens (`parallel/update/step.py`).
    """

    def _apply_aux_loss(
        self, probs: Tensor, scores_for_aux_loss: Tensor, routing_map: Tensor, with_padding_mask: bool = True
    ) -> Tensor:
        coefficient = self.get_aux_loss_coeff("aux_loss")
        if coefficient == 0:
            return probs
        tokens_per_expert, _, tokens = get_tokens_per_expert_and_token_count(
            routing_map=routing_map,
            reduce_group=self.tp_cp_group,
            topk=self.topk,
            with_padding_mask=True,  # and so all counts are tensors
        )
        loss = switch_load_balancing_loss_func(
            probs=scores_for_aux_loss,
            tokens_per_expert=tokens_per_expert,
            total_num_tokens=tokens.clamp(min=1),  # a micro-batch of padding alone
            topk=self.topk,
            num_experts=self.config.num_moe_experts,
            moe_aux_loss_coeff=coefficient,
        )
        attached: Tensor = MoEAuxLossAutoScaler.apply(probs, loss * tokens)
        return attached
