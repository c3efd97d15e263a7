"""What the choice of kernels for experts depends on, beside the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from aspo_megatron.config import KernelsConfig, ParallelConfig
from aspo_megatron.config.words import ModelDtype
from aspo_megatron.models.family import Family

_ALIGNMENT = 16
"""Bytes: a row of a grouped product's matrices is a multiple of it (PyTorch)."""
_GROUPED_PRODUCTS = (9, 10)
"""Major compute capabilities of GPUs on which PyTorch's grouped product reads the sizes of groups on the GPU; on others
the host waits for them."""


@dataclass(frozen=True)
class ExpertTraits:
    """Of a model's experts in a layout.

    Attributes:
        dtype: of their weights.
        rows_fit: rows of their matrices are of sizes that grouped products take.
        few_ranks: no more ranks share the experts than a token chooses. Then ranks that hand each other all tokens send
            no more than if they send each token where it goes.
    """

    dtype: ModelDtype
    rows_fit: bool
    few_ranks: bool

    @classmethod
    def of(cls, family: Family, parallel: ParallelConfig, dtype: ModelDtype) -> Self | None:
        """None for a model without experts."""
        if not family.num_experts:
            return None
        sizes = (family.hidden_size, family.expert_ffn_size // parallel.expert_tp)
        fit = all(size % _multiple(dtype) == 0 for size in sizes)
        return cls(dtype, fit, parallel.ep <= family.experts_per_token)

    def gathering_lack(self, settings: KernelsConfig, capability: tuple[int, int] | None) -> str | None:
        """What gathering needs and is not there, on a GPU of that compute capability, or without one."""
        if not self.rows_fit:
            return f"hidden_size and moe_intermediate_size / etp in multiples of {_multiple(self.dtype)}"
        if capability is None:
            return None
        if capability[0] not in _GROUPED_PRODUCTS:
            return f"a GPU of compute capability {' or '.join(f'{major}.x' for major in _GROUPED_PRODUCTS)}"
        if self.dtype != "bfloat16":
            return "model.dtype=bfloat16"
        return None if settings.fp8 == "none" else "model.kernels.fp8=none"

    def gathers(self, settings: KernelsConfig, capability: tuple[int, int] | None) -> bool:
        """Whether ranks hand each other all of their tokens: as asked, or where it can be done and is the faster way.

        Who asks for grouped products of Transformer Engine, or for none, asks for the other way.
        """
        if settings.experts == "auto":
            possible = capability is not None and self.gathering_lack(settings, capability) is None
            return possible and self.few_ranks and settings.grouped_gemm is None
        return settings.experts == "gathered"


def gathers_experts(
    family: Family,
    parallel: ParallelConfig,
    dtype: ModelDtype,
    settings: KernelsConfig,
    capability: tuple[int, int] | None,
) -> bool:
    """Whether the ranks of a layout hand each other all tokens for their experts, see `ExpertTraits.gathers`."""
    experts = ExpertTraits.of(family, parallel, dtype)
    return experts is not None and experts.gathers(settings, capability)


def _multiple(dtype: ModelDtype) -> int:
    return _ALIGNMENT // (4 if dtype == "float32" else 2)
