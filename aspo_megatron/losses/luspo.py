"""LUSPO, length-unbiased sequence policy optimization (arXiv 2602.05261)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from aspo_megatron.losses.base import register
from aspo_megatron.losses.gspo import Gspo


@register
class Luspo(Gspo):
    """`gspo` with its own clip range, for responses that are summed: GSPO's 1 / |y| favours short ones.

    Settings of its source: `loss.aggregation=seq-mean-token-sum`, with which this is the paper's objective exactly: the
    response's clipped surrogate times its length. With another aggregation it is `gspo`.

    Sources disagree: in TRL this needs the importance sampling of sequences; its default, of tokens, is another loss.
    The authors' code was not to be had.

    Denominator: that of the aggregation, over unmasked tokens; a clipped response still counts in it.
    Bad tokens: as `gspo`.
    """

    name: ClassVar[str] = "luspo"
    formula: ClassVar[str] = (
        "s = (pi(y) / pi_old(y)) ^ (1 / |y|)\n"
        "w = 0  if A > 0 and s > 1 + eps_high, or A < 0 and s < 1 - eps_low\n"
        "w = s  for the other responses, of which each is summed"
    )
    source: ClassVar[str] = "arXiv 2602.05261v1, eq. 7 and 8"

    eps_low: float = Field(2e-3, ge=0.0, le=1.0, description="Negative responses with s < 1 - eps_low get no gradient.")
    eps_high: float = Field(
        2.5e-3, ge=0.0, allow_inf_nan=False, description="Positive responses with s > 1 + eps_high get no gradient."
    )
