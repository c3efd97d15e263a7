"""The optional packages for GPUs that this process could import, found without importing them."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from aspo_megatron.parallel.device.triton_calls import has_triton
from aspo_megatron.versions import is_inside

_NO_OLDER = SpecifierSet(">=2.9")
"""Transformer Engine's versions for a megatron-core that names none (0.17 and newer)."""


@dataclass(frozen=True)
class Packages:
    """What is installed. `apex` is NVIDIA's; `other_apex` is the web toolkit that PyPI has under the same name."""

    transformer_engine: Version | None
    """None without its part for PyTorch, which `pip install transformer_engine` alone leaves out."""
    apex: bool
    other_apex: bool
    apex_gradient_kernels: bool
    """Apex was built with its kernels that add a weight's gradient to a buffer (`--cuda_ext`)."""
    triton: bool
    flash_attention_3: bool = False
    engine_window: SpecifierSet = _NO_OLDER
    """Versions of Transformer Engine that the installed megatron-core wants."""
    cuda: Version | None = None
    """That torch was built for."""

    @property
    def engine_lack(self) -> str | None:
        """Why Transformer Engine cannot be used, and what to do; None if it can."""
        cure = f"pip install --no-build-isolation 'transformer_engine[pytorch]{self.engine_window}'"
        if self.transformer_engine is None:
            return f"Transformer Engine is not installed ({cure})"
        if is_inside(self.transformer_engine, self.engine_window):
            return None
        return (
            f"Transformer Engine {self.transformer_engine} is installed, and this megatron-core is made for "
            f"{self.engine_window} ({cure})"
        )

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
        triton=has_triton(),
        flash_attention_3=_is_there("flash_attn_interface"),
        engine_window=engine_window(importlib.metadata.requires("megatron-core") or ()),
        cuda=Version(torch.version.cuda) if torch.version.cuda else None,
    )


def engine_window(requirements: Iterable[str]) -> SpecifierSet:
    """The versions of Transformer Engine among megatron-core's `requirements`, as its metadata lists them."""
    for text in requirements:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == "transformer-engine" and requirement.specifier:
            return requirement.specifier
    return _NO_OLDER


def _transformer_engine() -> Version | None:
    found = importlib.util.find_spec("transformer_engine")
    if found is None or not _has_torch_part([Path(folder) for folder in found.submodule_search_locations or ()]):
        return None
    try:
        return Version(importlib.metadata.version("transformer_engine"))
    except importlib.metadata.PackageNotFoundError:  # it refuses to be imported then
        return None


def _has_torch_part(folders: list[Path]) -> bool:
    """Whether its compiled part is where it looks for it: beside its folder, in it, or in that of PyPI's wheels."""
    places = [place for folder in folders for place in (folder.parent, folder, folder / "wheel_lib")]
    return _is_there("transformer_engine_torch") or any(
        next(place.glob("transformer_engine_torch*.so"), None) for place in places
    )


def _is_there(module: str) -> bool:
    # The toolkit of the same name as Apex has a module that fails on import; only its folders are looked at.
    parent, _, child = module.partition(".")
    found = importlib.util.find_spec(parent)
    if not child or found is None:
        return found is not None
    finder = importlib.machinery.PathFinder()
    return finder.find_spec(module, list(found.submodule_search_locations or ())) is not None
