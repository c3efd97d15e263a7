"""DAPO (arXiv 2503.14476): PPO-clip with a wider range upwards."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from aspo_megatron.losses.base import register
from aspo_megatron.losses.ppo_clip import PpoClip


@register
class Dapo(PpoClip):
    """DAPO's clip-higher: `grpo` with eps_high above eps_low, which leaves unlikely tokens more room to grow.

    Settings of its source: `loss.aggregation=token-mean`, no KL, and for the data dynamic sampling and the soft
    over-long penalty.

    Denominator: that of the aggregation, over unmasked tokens. Bad tokens: as `grpo`.
    """

    name: ClassVar[str] = "dapo"
    formula: ClassVar[str] = (
        "w = 0  if A > 0 and r > 1 + eps_high, or A < 0 and r < 1 - eps_low\nw = r  for the other tokens"
    )
    source: ClassVar[str] = "arXiv 2503.14476"

    eps_high: float = Field(
        0.28, ge=0.0, allow_inf_nan=False, description="Positive tokens with r > 1 + eps_high get no gradient."
    )
