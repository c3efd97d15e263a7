"""Which kernels the layers run on: what `model.kernels` asks for, held against what this machine has."""

from __future__ import annotations

from dataclasses import dataclass

from aspo_megatron.config import KernelsConfig
from aspo_megatron.errors import ConfigError
from aspo_megatron.parallel.packages import Packages

_PLAIN_FP8_TOKENS, _BLOCK_FP8_TOKENS = 16, 32
"""Products in FP8 want their number of tokens to be a multiple of these, `mxfp8` of the second."""


@dataclass(frozen=True)
class Machine:
    """What kernels depend on. `capability`: of the GPU, e.g. (9, 0) for Hopper; None without one."""

    packages: Packages
    capability: tuple[int, int] | None
    compiler: str
    """What torch.compile needs here."""
    compiler_found: bool


@dataclass(frozen=True)
class Kernels:
    """What was chosen. `token_multiple`: each rank's tokens of a micro-batch are padded to a multiple of it."""

    transformer_engine: bool = False
    fusion: bool = False
    rope_fusion: bool = False
    gradient_fusion: bool = False
    grouped_gemm: bool = False
    fp8: str | None = None
    fp8_recipe: str = "delayed"
    compiled_log_prob: bool = False
    token_multiple: int = 1


def choose_kernels(settings: KernelsConfig, machine: Machine, *, experts: bool) -> Kernels:
    """The kernels for a model with or without `experts`.

    Raises:
        ConfigError: if something is asked for that needs a package or a GPU that is not here; names both.
    """
    gpu, packages = machine.capability is not None, machine.packages
    engine = _transformer_engine(settings, machine)
    fp8 = None if settings.fp8 == "none" else settings.fp8
    if fp8:
        _check_fp8(settings, machine, engine)
    return Kernels(
        transformer_engine=engine,
        fusion=gpu if settings.fusion is None else settings.fusion,
        rope_fusion=engine and settings.fusion is not False,
        gradient_fusion=_gradient_fusion(settings, machine, engine),
        grouped_gemm=experts and _grouped_gemm(settings, packages, engine),
        fp8=fp8,
        fp8_recipe=settings.fp8_recipe,
        compiled_log_prob=_compiled_log_prob(settings, machine),
        token_multiple=1 if not fp8 else _BLOCK_FP8_TOKENS if settings.fp8_recipe == "mxfp8" else _PLAIN_FP8_TOKENS,
    )


def _transformer_engine(settings: KernelsConfig, machine: Machine) -> bool:
    if settings.layers == "local":
        return False
    found = machine.packages.transformer_engine is not None
    if settings.layers == "auto":
        return found and machine.capability is not None
    if machine.capability is None:
        raise ConfigError("model.kernels.layers=transformer_engine: needs a GPU; use auto or local without one")
    if not found:
        raise ConfigError(
            "model.kernels.layers=transformer_engine: Transformer Engine is not installed "
            "(pip install --no-build-isolation 'transformer_engine[pytorch]')"
        )
    return True


def _check_fp8(settings: KernelsConfig, machine: Machine, engine: bool) -> None:
    asked = f"model.kernels.fp8={settings.fp8}"
    if machine.capability is None:
        raise ConfigError(f"{asked}: needs a GPU; fp8=none trains without one")
    if not engine:
        why = "model.kernels.layers=local" if settings.layers == "local" else "it is not installed"
        raise ConfigError(f"{asked}: needs the layers of Transformer Engine, but {why}")
    least = (10, 0) if settings.fp8_recipe == "mxfp8" else (9, 0) if settings.fp8_recipe == "blockwise" else (8, 9)
    if machine.capability < least:
        raise ConfigError(
            f"{asked} with fp8_recipe={settings.fp8_recipe}: needs a GPU of compute capability "
            f"{least[0]}.{least[1]}, this one has {machine.capability[0]}.{machine.capability[1]}"
        )


def _gradient_fusion(settings: KernelsConfig, machine: Machine, engine: bool) -> bool:
    """Whether a layer's backward adds its weight's gradient to megatron's buffer itself."""
    packages = machine.packages
    possible = machine.capability is not None and (engine or packages.apex_gradient_kernels)
    if settings.gradient_fusion is None or not settings.gradient_fusion:
        return possible and settings.gradient_fusion is None
    if not possible:
        web = "; the package `apex` that is installed is an unrelated web toolkit" if packages.other_apex else ""
        raise ConfigError(
            "model.kernels.gradient_fusion=true: needs a GPU with Transformer Engine, or with NVIDIA Apex built with "
            f"its CUDA extensions (github.com/NVIDIA/apex, not PyPI){web}"
        )
    return True


def _grouped_gemm(settings: KernelsConfig, packages: Packages, engine: bool) -> bool:
    """Whether a rank's experts are one grouped product each for both layers, instead of one after another."""
    possible = engine and (packages.transformer_engine or ()) >= (1, 11)
    if settings.grouped_gemm and not possible:
        raise ConfigError("model.kernels.grouped_gemm=true: needs a GPU and Transformer Engine 1.11 or newer")
    return possible if settings.grouped_gemm is None else settings.grouped_gemm


def _compiled_log_prob(settings: KernelsConfig, machine: Machine) -> bool:
    if settings.log_prob == "compiled" and not machine.compiler_found:
        raise ConfigError(f"model.kernels.log_prob=compiled: needs {machine.compiler}, which is not installed")
    faster = machine.capability is not None  # on a CPU the plain tiles are, see docs/log_prob.md
    return settings.log_prob == "compiled" or (settings.log_prob == "auto" and faster and machine.compiler_found)
