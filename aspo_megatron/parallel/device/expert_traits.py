"""What the choice of kernels for experts depends on, beside the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from aspo_megatron.config import ParallelConfig
from aspo_megatron.config.words import ModelDtype
from aspo_megatron.models.family import Family

_ALIGNMENT = 16
"""Bytes: a row of a grouped product's matrices is a multiple of it (PyTorch)."""


@dataclass(frozen=True)
class ExpertTraits:
    """Of a model's experts in a layout.

    Attributes:
        gathering_lack: what gathering needs and this model has not; None if it has all.
        gathering_pays: ranks that hand each other all tokens send no more than if they send each where it goes.
        in_16_bits: weights are bf16.
    """

    gathering_lack: str | None
    gathering_pays: bool
    in_16_bits: bool

    @classmethod
    def of(cls, family: Family, parallel: ParallelConfig, dtype: ModelDtype) -> Self | None:
        """None for a model without experts."""
        if not family.num_experts:
            return None
        multiple = _ALIGNMENT // (4 if dtype == "float32" else 2)
        inner = family.expert_ffn_size // parallel.expert_tp
        odd = family.hidden_size % multiple or inner % multiple
        lack = f"hidden_size and moe_intermediate_size over etp in multiples of {multiple}" if odd else None
        return cls(lack, parallel.ep <= family.experts_per_token, dtype == "bfloat16")
