"""PPO with dual clip (arXiv 1912.09729)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from aspo_megatron.losses.base import register
from aspo_megatron.losses.ppo_clip import PpoClip


@register
class PpoDualClip(PpoClip):
    """`grpo` with a bound on the loss of negative tokens; a token beyond it has no gradient.

    ASPO's cap is softer: it keeps the gradient, with weight c.

    Denominator: that of the aggregation, over unmasked tokens. Bad tokens: the bound e^20 is above `dual_clip`.
    """

    name: ClassVar[str] = "ppo-dual-clip"
    formula: ClassVar[str] = (
        "w = 0  if A > 0 and r > 1 + eps_high, or A < 0 and (r < 1 - eps_low or r > dual_clip)\n"
        "w = r  for the other tokens"
    )
    source: ClassVar[str] = "arXiv 1912.09729"

    dual_clip: float | None = Field(
        3.0,
        gt=1.0,
        allow_inf_nan=False,
        description="Negative tokens with r above this get no gradient; null: all do.",
    )
