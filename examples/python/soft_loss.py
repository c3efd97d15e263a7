"""A policy loss that has no clip range."""

import torch
from pydantic import Field

from aspo_megatron.losses import Loss, LossInput, LossOutput, Stat


class SoftRatio(Loss):
    """A token weighs the less, the further its ratio is from 1, in either direction."""

    token_wise = True

    sharpness: float = Field(1.0, gt=0.0, description="How fast the weight falls with the log of the ratio.")

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        log_ratio = (inputs.log_probs - inputs.old_log_probs).detach()
        weight = torch.exp(-self.sharpness * log_ratio.square())
        per_token = -inputs.advantages * weight * inputs.log_probs
        return LossOutput(per_token, stats={"soft/weight": Stat(weight, inputs.mask)})
