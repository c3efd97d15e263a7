"""The policy, and the ranks that it is split over."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from aspo_megatron.config.base import Section
from aspo_megatron.config.plain import some_path
from aspo_megatron.config.words import ModelDtype, Recompute, ReferencePlace, TritonUse


class KernelsConfig(Section):
    """What the model computes with, see docs/gpu.md. The defaults take what is installed; null leaves the choice."""

    layers: Literal["auto", "transformer_engine", "local"] = Field(
        "auto", description="Whose layers: Transformer Engine's (`auto`: on a GPU that has it), or megatron's own."
    )
    fusion: bool | None = Field(
        None,
        description="Activation, and residual after dropout, as one kernel each of torch.compile; with "
        "rotary=eager, rotary positions by Transformer Engine. null: on a GPU.",
    )
    gradient_fusion: bool | None = Field(
        None,
        description="Layers add a weight's gradient to megatron's buffer themselves: needs Transformer Engine or "
        "NVIDIA Apex. null: where these are.",
    )
    grouped_gemm: bool | None = Field(
        None, description="A rank's experts as one grouped product (Transformer Engine). null: where it is."
    )
    expert_fusion: bool | None = Field(
        None,
        description="Routing, and the order of tokens by expert, as kernels of Transformer Engine. null: where it has "
        "them.",
    )
    experts: Literal["auto", "gathered", "sent"] = Field(
        "auto",
        description="How tokens come to the ranks of their experts: all of them to all (`gathered`), for which no host "
        "waits, or each where it goes (`sent`). `auto`: gathered on Hopper and Blackwell in bfloat16, if no more than "
        "a token's number of experts share them (ep).",
    )
    fp8: Literal["none", "e4m3", "hybrid"] = Field(
        "none", description="Products of the layers in FP8; `hybrid`: gradients in e5m2. The log-prob stays as it is."
    )
    fp8_recipe: Literal["auto", "delayed", "tensorwise", "blockwise", "mxfp8"] = Field(
        "auto",
        description="How FP8 is scaled; `blockwise` needs Hopper, `mxfp8` Blackwell. `auto`: as the GPU does it best, "
        "see docs/gpu.md.",
    )
    attention: Literal["auto", "varlen", "blocks"] = Field(
        "auto",
        description="Packed spans by flash attention for sequences of unequal length (`auto`: on a GPU in 16 bits), or "
        "block by block.",
    )
    flash_attention_3: bool | None = Field(
        None,
        description="FlashAttention-3 (the package `flash_attn_interface`, on Hopper) in place of PyTorch's flash "
        "attention. null: where it is.",
    )
    log_prob: TritonUse = Field(
        "auto",
        description="How a chunk's logits are worked on: by plain PyTorch, or by Triton kernels, which a CPU "
        "interprets, to test them (with TRITON_INTERPRET=1). `auto`: triton on a GPU that has it, else eager.",
    )
    rotary: TritonUse = Field(
        "auto",
        description="Norms of heads and rotary positions: as megatron's layers have them, or as one Triton kernel each "
        "way, which a CPU interprets. `auto`: triton on a GPU that has it, else eager.",
    )


class ModelConfig(Section):
    """The policy that is trained, and its starting weights."""

    path: Path = Field(
        description="Hugging Face model folder: config.json, tokenizer, safetensors weights; or a megatron checkpoint "
        "of `aspo convert` or of a run."
    )
    init: Literal["pretrained", "random"] = Field(
        "pretrained", description="Read the folder's weights, or draw random ones for its config.json."
    )
    dtype: ModelDtype = Field(
        "float32", description="Precision of the weights in forward and backward; the optimizer is fp32 always."
    )
    recompute: Recompute = Field(
        "none",
        description="What backward computes again to save memory: nothing; the norms and the activation of each layer, "
        "which takes some 2 % of the time; its attention and feed-forward; or all of it.",
    )
    reference: ReferencePlace = Field(
        "host",
        description="Where the model that the KL refers to has its weights while it does not compute: on the GPU too, "
        "or in the host's memory. On a CPU there is no difference.",
    )
    kernels: KernelsConfig = KernelsConfig()

    _named = field_validator("path", mode="before")(some_path)


class PlatformConfig(Section):
    """Where the ranks run."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes CUDA if there is a GPU.")
    threads_per_rank: PositiveInt = Field(
        1, description="CPU threads of each rank; 2 ranks x 2 threads stall on 2 cores."
    )
    more_ranks_than_cores: bool = Field(
        False, description="Start ranks on CPUs although they have more than four threads for each core here."
    )
    timeout_minutes: PositiveFloat = Field(
        10.0, description="A collective that waits longer ends the run; more for long rollouts."
    )


class ParallelConfig(Section):
    """How the model and the batch are split. Ranks needed: tp x cp x dp x pp."""

    tp: PositiveInt = Field(1, description="Tensor parallelism: ranks that share each layer; must divide the heads.")
    pp: PositiveInt = Field(1, description="Pipeline parallelism: ranks that hold different layers.")
    vpp: PositiveInt = Field(1, description="Virtual stages: runs of layers that each pipeline rank holds (pp > 1).")
    pp_layers: tuple[PositiveInt, ...] | None = Field(
        None, description="Layers of each of the pp x vpp stages, in the model's order; null: as even as it goes."
    )
    cp: PositiveInt = Field(1, description="Context parallelism: ranks that share the tokens of each micro-batch.")
    dp: PositiveInt = Field(1, description="Data parallelism: replicas of the model.")
    ep: PositiveInt = Field(
        1,
        description="Expert parallelism: ranks that hold different experts, out of a stage's tp x cp x dp ranks.",
    )
    etp: PositiveInt | None = Field(
        None, description="Tensor parallelism inside each expert; null: tp. ep x etp must divide tp x cp x dp."
    )
    sequence_parallel: bool = Field(False, description="Split norms and residuals over the tp ranks by token.")
    distributed_optimizer: bool = Field(False, description="Split the optimizer state over the dp ranks.")
    overlap_grad_reduce: bool = Field(
        False, description="Sum gradients over the dp ranks while backward of the last micro-batch runs."
    )

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def expert_tp(self) -> int:
        """Ranks that share each expert."""
        return self.etp or self.tp

    @property
    def experts_span_replicas(self) -> bool:
        """Whether replicas share experts. ep x etp consecutive ranks hold all experts; tp x cp hold a replica."""
        return self.tp * self.cp % (self.ep * self.expert_tp) != 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sequence_parallel and self.tp == 1:
            raise ValueError("sequence_parallel needs tp > 1")
        if self.vpp > 1 and self.pp == 1:
            raise ValueError("vpp > 1 needs pp > 1")
        if self.pp_layers is not None and len(self.pp_layers) != self.pp * self.vpp:
            raise ValueError(f"pp_layers has {len(self.pp_layers)} numbers for pp x vpp = {self.pp * self.vpp} stages")
        if self.tp * self.cp * self.dp % (self.ep * self.expert_tp):
            raise ValueError(
                f"ep x etp = {self.ep * self.expert_tp} does not divide tp x cp x dp = {self.tp * self.cp * self.dp}"
            )
        return self
