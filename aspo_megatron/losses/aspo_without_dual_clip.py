"""ASPO without its cap on the gradient weight: an ablation of the paper."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from aspo_megatron.losses.aspo import Aspo
from aspo_megatron.losses.base import register


@register
class AspoWithoutDualClip(Aspo):
    """`aspo` with dual_clip null: the flipped weight grows without a cap.

    Denominator: that of the aggregation, over unmasked tokens. Bad tokens: none weighs more than e^20.
    """

    name: ClassVar[str] = "aspo-without-dual-clip"
    formula: ClassVar[str] = (
        "w = 0  if A > 0 and r > 1 + eps_high, or A < 0 and r < 1 - eps_low\n"
        "w = 1 / r  for the other tokens with A > 0\n"
        "w = r  for the other tokens with A < 0"
    )
    source: ClassVar[str] = "arXiv 2510.06062v2, an ablation"

    dual_clip: float | None = Field(
        None, gt=1.0, allow_inf_nan=False, description="Cap c of the gradient weight; null, the point of it, for none."
    )
