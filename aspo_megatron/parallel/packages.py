"""The optional packages for GPUs that this process could import, found without importing them."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class Packages:
    """What is installed. `apex` is NVIDIA's; `other_apex` is the web toolkit that PyPI has under the same name."""

    transformer_engine: tuple[int, ...] | None
    """Its version, e.g. (2, 9)."""
    apex: bool
    other_apex: bool
    apex_gradient_kernels: bool
    """Apex was built with its kernels that add a weight's gradient to a buffer (`--cuda_ext`)."""
    triton: bool

    @property
    def fused_adam(self) -> str:
        """Whose Adam megatron-core takes."""
        if self.transformer_engine:
            return "Transformer Engine"
        return "Apex" if self.apex else "PyTorch"


def find_packages() -> Packages:
    """What this environment has."""
    apex = _is_there("apex")
    nvidia_apex = apex and _is_there("apex.optimizers")
    return Packages(
        transformer_engine=_transformer_engine(),
        apex=nvidia_apex,
        other_apex=apex and not nvidia_apex,
        apex_gradient_kernels=_is_there("fused_weight_gradient_mlp_cuda"),
        triton=_is_there("triton"),
    )


def _transformer_engine() -> tuple[int, ...] | None:
    if not _is_there("transformer_engine"):
        return None
    try:
        version = importlib.metadata.version("transformer_engine")
    except importlib.metadata.PackageNotFoundError:  # built from source without metadata: as new as it must be
        return (2,)
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _is_there(module: str) -> bool:
    # The toolkit of the same name as Apex has a module that fails on import; only its folders are looked at.
    parent, _, child = module.partition(".")
    found = importlib.util.find_spec(parent)
    if not child or found is None:
        return found is not None
    finder = importlib.machinery.PathFinder()
    return finder.find_spec(module, list(found.submodule_search_locations or ())) is not None
