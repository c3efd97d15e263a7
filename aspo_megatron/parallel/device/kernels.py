"""Which kernels the layers run on: what `model.kernels` asks for, held against what this machine has."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import Version

from aspo_megatron.config import KernelsConfig, ModelConfig
from aspo_megatron.config.words import AttentionPlan
from aspo_megatron.errors import ConfigError
from aspo_megatron.parallel.device.expert_traits import ExpertTraits
from aspo_megatron.parallel.device.packages import Packages

_FP8_TOKENS = {"delayed": 16, "tensorwise": 16, "blockwise": 128, "mxfp8": 32}
"""A rank's number of tokens is a multiple of these. Transformer Engine's products want 16; and it gathers the tokens of
sequence parallelism only in whole blocks of a scale (`assert_dim_for_all_gather`)."""
_FP8_CAPABILITY = {"delayed": (8, 9), "tensorwise": (8, 9), "blockwise": (9, 0), "mxfp8": (10, 0)}
_BLOCKWISE_CUDA = Version("12.9")
_EXPERT_FUSION_ENGINE = Version("2.10")
"""The kernels are older, but do not compile before with Triton 3.5, which is older than any torch that runs here."""


@dataclass(frozen=True)
class Machine:
    """What kernels depend on. `capability`: of the GPU, e.g. (9, 0) for Hopper; None without one."""

    packages: Packages
    capability: tuple[int, int] | None


@dataclass(frozen=True)
class Kernels:
    """What was chosen. `token_multiple`: each rank's tokens of a micro-batch are padded to a multiple of it."""

    transformer_engine: bool = False
    fusion: bool = False
    rope_fusion: bool = False
    gradient_fusion: bool = False
    grouped_gemm: bool = False
    expert_fusion: bool = False
    gathered_experts: bool = False
    fp8: str | None = None
    fp8_recipe: str = "delayed"
    attention: AttentionPlan = "blocks"
    triton_merge: bool = False
    flash_attention_3: bool = False
    triton_log_prob: bool = False
    triton_rotary: bool = False
    token_multiple: int = 1


def choose_kernels(settings: KernelsConfig, machine: Machine, *, experts: ExpertTraits | None, flash: bool) -> Kernels:
    """The kernels for a model with or without `experts`, whose heads and dtype are those that `flash` takes, or not.

    Raises:
        ConfigError: if something is asked for that needs a package or a GPU that is not here; names both.
    """
    gpu, engine = machine.capability is not None, _transformer_engine(settings, machine)
    fp8 = None if settings.fp8 == "none" else settings.fp8
    recipe = _fp8_recipe(settings, machine, engine) if fp8 else "delayed"
    attention = _attention(settings, machine, flash)
    gathered = experts is not None and _gathered_experts(settings, machine, experts)
    apart = experts is not None and not gathered
    rotary = _by_triton("rotary", settings.rotary, machine)
    return Kernels(
        transformer_engine=engine,
        fusion=gpu if settings.fusion is None else settings.fusion,
        rope_fusion=engine and settings.fusion is not False and not rotary,
        gradient_fusion=_gradient_fusion(settings, machine, engine),
        grouped_gemm=apart and _grouped_gemm(settings, engine),
        expert_fusion=experts is not None and _expert_fusion(settings, machine, engine),
        gathered_experts=gathered,
        fp8=fp8,
        fp8_recipe=recipe,
        attention=attention,
        flash_attention_3=_flash_attention_3(settings, machine, attention),
        triton_merge=attention == "varlen" and gpu and machine.packages.triton,
        triton_log_prob=_by_triton("log_prob", settings.log_prob, machine),
        triton_rotary=rotary,
        token_multiple=_FP8_TOKENS[recipe] if fp8 else 1,
    )


def advice(settings: ModelConfig, machine: Machine) -> list[str]:
    """What the user of a GPU should know about settings that work, but hardly as meant."""
    lines: list[str] = []
    if machine.capability is None:
        return lines
    if settings.dtype == "float32":
        lines.append(
            "model.dtype=float32 on a GPU: no flash attention, which takes 16 bits only; products without tensor cores "
            "(TF32 is off); twice the memory of activations. Set model.dtype=bfloat16 (the optimizer stays in fp32), "
            "unless fp32 is what you want."
        )
    packages = machine.packages
    if settings.kernels.layers == "auto" and packages.transformer_engine is not None and packages.engine_lack:
        lines.append(
            f"model.kernels.layers=auto: {packages.engine_lack}. The layers are megatron-core's own, which are slower; "
            "layers=local says that this is meant."
        )
    return lines


def _transformer_engine(settings: KernelsConfig, machine: Machine) -> bool:
    if settings.layers == "local":
        return False
    lack = machine.packages.engine_lack
    if settings.layers == "auto":
        return lack is None and machine.capability is not None
    if machine.capability is None:
        raise ConfigError("model.kernels.layers=transformer_engine: needs a GPU; use auto or local without one")
    if lack:
        raise ConfigError(f"model.kernels.layers=transformer_engine: {lack}")
    return True


def _fp8_recipe(settings: KernelsConfig, machine: Machine, engine: bool) -> str:
    """How FP8 is scaled on this GPU: as asked, or in the finest blocks that it has products for."""
    asked = f"model.kernels.fp8={settings.fp8}"
    if machine.capability is None:
        raise ConfigError(f"{asked}: needs a GPU; fp8=none trains without one")
    if not engine:
        why = "model.kernels.layers=local" if settings.layers == "local" else machine.packages.engine_lack
        raise ConfigError(f"{asked}: needs the layers of Transformer Engine, but {why}")
    if settings.fp8_recipe == "auto":
        possible = (recipe for recipe in ("mxfp8", "blockwise") if _recipe_lack(recipe, machine) is None)
        recipe = "tensorwise" if machine.capability >= (12, 0) else next(possible, "tensorwise")
    else:
        recipe = settings.fp8_recipe
    lack = _recipe_lack(recipe, machine)
    if lack:
        raise ConfigError(f"{asked} with fp8_recipe={recipe}: {lack}")
    return recipe


def _recipe_lack(recipe: str, machine: Machine) -> str | None:
    """What `recipe` needs and this machine lacks, as in Transformer Engine's `check_recipe_support`."""
    least, has, cuda = _FP8_CAPABILITY[recipe], machine.capability or (0, 0), machine.packages.cuda
    if has < least:
        return f"needs a GPU of compute capability {least[0]}.{least[1]}, this one has {has[0]}.{has[1]}"
    if recipe == "mxfp8" and has >= (12, 0):
        return f"Transformer Engine has it for compute capability 10 and 11, this GPU has {has[0]}.{has[1]}"
    if recipe == "blockwise" and cuda is not None and cuda < _BLOCKWISE_CUDA:
        return f"needs CUDA {_BLOCKWISE_CUDA}, this torch is built for {cuda}"
    return None


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


def _grouped_gemm(settings: KernelsConfig, engine: bool) -> bool:
    """Whether a rank's experts are one grouped product each for both layers, instead of one after another."""
    if settings.grouped_gemm and not engine:
        raise ConfigError("model.kernels.grouped_gemm=true: needs a GPU and the layers of Transformer Engine")
    return engine if settings.grouped_gemm is None else settings.grouped_gemm


def _expert_fusion(settings: KernelsConfig, machine: Machine, engine: bool) -> bool:
    """Whether tokens are routed, and brought into the order of their experts, by Transformer Engine."""
    version = machine.packages.transformer_engine
    possible = engine and version is not None and version >= _EXPERT_FUSION_ENGINE
    if settings.expert_fusion and not possible:
        has = f", this one has {version}" if engine else ""
        raise ConfigError(
            "model.kernels.expert_fusion=true: needs a GPU and the layers of Transformer Engine "
            f"{_EXPERT_FUSION_ENGINE} or newer{has}"
        )
    return possible if settings.expert_fusion is None else settings.expert_fusion


def _gathered_experts(settings: KernelsConfig, machine: Machine, experts: ExpertTraits) -> bool:
    """Whether ranks hand each other all of their tokens, so that no host waits to learn where each of them goes."""
    lack = experts.gathering_lack(settings, machine.capability)
    if settings.experts == "gathered" and lack:
        raise ConfigError(f"model.kernels.experts=gathered: needs {lack}; auto sends each token where it goes")
    return experts.gathers(settings, machine.capability)


def _attention(settings: KernelsConfig, machine: Machine, flash: bool) -> AttentionPlan:
    """On a CPU blocks are faster: what is done there for `varlen` is to see that it is right."""
    if settings.attention == "varlen" and machine.capability is not None and not flash:
        raise ConfigError(
            "model.kernels.attention=varlen: flash attention takes 16 bits (model.dtype=bfloat16), and heads of up to "
            "256 in steps of 8; attention=auto computes this model block by block"
        )
    if settings.attention == "auto":
        return "varlen" if machine.capability is not None and flash else "blocks"
    return settings.attention


def _flash_attention_3(settings: KernelsConfig, machine: Machine, attention: str) -> bool:
    """Whether PyTorch's operations are to run it, as they can on Hopper."""
    hopper = machine.capability is not None and machine.capability[0] == 9
    possible = hopper and machine.packages.flash_attention_3 and attention == "varlen"
    if settings.flash_attention_3 and not possible:
        raise ConfigError(
            "model.kernels.flash_attention_3=true: needs a GPU of compute capability 9.0 (Hopper), the package "
            "flash_attn_interface (hopper/ of github.com/Dao-AILab/flash-attention), and model.kernels.attention=varlen"
        )
    return possible and settings.flash_attention_3 is not False


def _by_triton(key: str, asked: str, machine: Machine) -> bool:
    """Whether Triton's kernels are used; on a CPU, where they are interpreted, only if they are asked for."""
    if asked == "triton" and not machine.packages.triton:
        raise ConfigError(f"model.kernels.{key}=triton: needs Triton, which is not installed (pip install triton)")
    possible = machine.capability is not None and machine.packages.triton
    return asked == "triton" or (asked == "auto" and possible)
