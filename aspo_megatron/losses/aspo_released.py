"""ASPO as its authors' released code has it: the clip range depends on the token's entropy."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.aspo import aspo_loss
from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.entropy import low_entropy_mask
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens


@register
class AspoReleased(Loss):
    """ASPO with a wider clip range at the tokens where the current policy is least certain.

    A token whose entropy is above the `quantile` of its response's unmasked tokens (`torch.quantile`, linear
    interpolation) has eps_high_entropy, the others have eps_low_entropy, for both sides. All else is as in `aspo`.

    It is not token-wise: the quantile needs the whole response, so the tensors must hold whole responses. No
    gradient flows through the entropy.

    Settings of its source: `loss.aggregation=seq-mean-token-mean` in effect, though its scripts ask for token-mean. It
    can restrict the KL to low-entropy tokens (`loss.kl_tokens=low-entropy`).

    Denominator: that of the aggregation, over unmasked tokens. Bad tokens: as `aspo`.
    """

    name: ClassVar[str] = "aspo-released"
    formula: ClassVar[str] = (
        "eps = eps_low_entropy  if the token's entropy <= the quantile of its response, else eps_high_entropy\n"
        "w = that of aspo with eps_low = eps_high = eps"
    )
    source: ClassVar[str] = "code released with arXiv 2510.06062"
    token_wise: ClassVar[bool] = False

    eps_low_entropy: float = Field(
        0.2, ge=0.0, le=1.0, description="Half-width of the clip range at low-entropy tokens, both sides."
    )
    eps_high_entropy: float = Field(
        0.4, ge=0.0, le=1.0, description="Half-width of the clip range at high-entropy tokens, both sides."
    )
    quantile: float = Field(
        0.8,
        ge=0.0,
        le=1.0,
        description="Quantile of the response's entropies at or below which a token has low entropy.",
    )
    dual_clip: float | None = Field(
        3.0, gt=1.0, allow_inf_nan=False, description="Cap c of the gradient weight, for both signs; null for no cap."
    )

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        low = ClipRange.around_one(self.eps_low_entropy, self.eps_low_entropy, inputs.log_probs)
        high = ClipRange.around_one(self.eps_high_entropy, self.eps_high_entropy, inputs.log_probs)
        is_low = low_entropy_mask(inputs.entropy, inputs.mask, inputs.cu_seqlens, self.quantile)
        clip_range = ClipRange(torch.where(is_low, low.lower, high.lower), torch.where(is_low, low.upper, high.upper))
        return aspo_loss(inputs.log_probs, tokens, clip_range, self.dual_clip)
