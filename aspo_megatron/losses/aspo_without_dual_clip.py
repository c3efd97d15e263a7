"""ASPO without its cap on the gradient weight: an ablation of the paper."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from aspo_megatron.losses.aspo import Aspo
from aspo_megatron.losses.base import register


@register
class AspoWithoutDualClip(Aspo):
    """`aspo` with dual_clip null: the flipped weight 1/r, and r for A < 0, grow without a cap.

    Denominator: that of the aggregation, over unmasked tokens. Bad tokens: none weighs more than e^20.
    """

    name: ClassVar[str] = "aspo-without-dual-clip"

    dual_clip: float | None = Field(
        None, gt=1.0, allow_inf_nan=False, description="Cap c of the gradient weight; null, the point of it, for none."
    )
