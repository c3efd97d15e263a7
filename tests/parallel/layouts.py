"""Layouts by name, for the tests that take some of them; adding one is adding a line.

Those of `LAYOUTS` go through many losses and batches (test_step.py). They hold what test_every_layout.py, which has all
layouts of two and of four ranks, does not: options, three ranks, bf16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
from aspo_megatron.config import KernelsConfig, ModelConfig, ParallelConfig, PlatformConfig
from aspo_megatron.config.words import ModelDtype, Recompute
from aspo_megatron.models.family import read_family
from aspo_megatron.models.mapping import TensorSource
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.parallel.model.policy import PolicyModel, build_model
from aspo_megatron.parallel.update.optimizer import Optimizer

PLATFORM = PlatformConfig(device="cpu", timeout_minutes=2)


DEFAULT = KernelsConfig()
FUSED = KernelsConfig(fusion=True)
TRITON = KernelsConfig(log_prob="triton")
GATHERED = KernelsConfig(experts="gathered")
VARLEN = KernelsConfig(attention="varlen")
"""Attention planned as on a GPU. test_every_layout.py has all layouts so."""


@dataclass(frozen=True)
class Layout:
    """A row of the matrix; it is compared with one process that has the same model and dtype."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    model: Literal["llama-tied", "qwen2", "qwen3", "qwen3-moe"] = "llama-tied"
    recompute: Recompute = "none"
    dtype: ModelDtype = "float32"
    kernels: KernelsConfig = DEFAULT

    @property
    def single(self) -> str:
        """The name of the row that this one is compared with."""
        if self.dtype == "bfloat16":
            return "bf16"
        return "moe" if self.model == "qwen3-moe" else "single"


def layout(
    *,
    model: Literal["llama-tied", "qwen3-moe"] = "llama-tied",
    recompute: Recompute = "none",
    dtype: ModelDtype = "float32",
    kernels: KernelsConfig = DEFAULT,
    **parallel: Any,
) -> Layout:
    return Layout(ParallelConfig(**parallel), model, recompute, dtype, kernels)


LAYOUTS = {
    "single": layout(),
    "tp2": layout(tp=2),
    "tp3": layout(tp=3),
    "tp2-sp": layout(tp=2, sequence_parallel=True),
    "cp2": layout(cp=2),
    "cp2-tp2-sp": layout(cp=2, tp=2, sequence_parallel=True, kernels=VARLEN),
    "pp2": layout(pp=2),
    "pp3": layout(pp=3),
    "pp2-uneven": layout(pp=2, pp_layers=(3, 1)),
    "pp2-vpp2": layout(pp=2, vpp=2),
    "pp2-tp2-sp": layout(pp=2, tp=2, sequence_parallel=True),
    "pp2-cp2": layout(pp=2, cp=2, kernels=VARLEN),
    "dp2": layout(dp=2),
    "dp2-distopt": layout(dp=2, distributed_optimizer=True),
    "dp3-distopt": layout(dp=3, distributed_optimizer=True),
    "dp2-tp2": layout(dp=2, tp=2),
    "dp2-overlap": layout(dp=2, overlap_grad_reduce=True),
    "dp2-tp2-distopt-overlap": layout(dp=2, tp=2, distributed_optimizer=True, overlap_grad_reduce=True),
    "dp2-pp2-overlap": layout(dp=2, pp=2, overlap_grad_reduce=True),
    "dp2-pp2-vpp2-distopt-overlap": layout(dp=2, pp=2, vpp=2, distributed_optimizer=True, overlap_grad_reduce=True),
    "fusion": layout(kernels=FUSED),
    "recompute-full": layout(recompute="full", kernels=VARLEN),
    "recompute-selective": layout(recompute="selective", kernels=VARLEN),
    "recompute-light": layout(recompute="light", kernels=VARLEN),
    "fusion-recompute-light": layout(recompute="light", kernels=FUSED),
    "tp2-sp-recompute-light": layout(tp=2, sequence_parallel=True, recompute="light"),
    "pp2-vpp2-recompute-light": layout(pp=2, vpp=2, recompute="light"),
    "cp2-recompute-light": layout(cp=2, recompute="light"),
    "dp2-distopt-overlap-recompute-light": layout(
        dp=2, distributed_optimizer=True, overlap_grad_reduce=True, recompute="light"
    ),
    "tp2-sp-recompute-full": layout(tp=2, sequence_parallel=True, recompute="full"),
    "pp2-vpp2-recompute-full": layout(pp=2, vpp=2, recompute="full"),
    "cp2-recompute-selective": layout(cp=2, recompute="selective"),
    "moe": layout(model="qwen3-moe"),
    "moe-tp2-sp-ep2-etp1": layout(model="qwen3-moe", tp=2, ep=2, etp=1, sequence_parallel=True, kernels=VARLEN),
    "moe-dp2": layout(model="qwen3-moe", dp=2),
    "moe-dp2-ep2": layout(model="qwen3-moe", dp=2, ep=2),
    "moe-tp2-sp-ep2-etp1-recompute-light": layout(
        model="qwen3-moe", tp=2, ep=2, etp=1, sequence_parallel=True, recompute="light"
    ),
    "moe-fusion-recompute-light": layout(model="qwen3-moe", recompute="light", kernels=FUSED),
    "moe-dp2-ep2-recompute-full": layout(model="qwen3-moe", dp=2, ep=2, recompute="full"),
    "moe-dp2-ep2-recompute-selective": layout(model="qwen3-moe", dp=2, ep=2, recompute="selective"),
    "moe-dp2-ep2-overlap": layout(model="qwen3-moe", dp=2, ep=2, overlap_grad_reduce=True),
    "moe-tp2-sp-etp1-overlap": layout(model="qwen3-moe", tp=2, etp=1, sequence_parallel=True, overlap_grad_reduce=True),
    "moe-gathered": layout(model="qwen3-moe", kernels=GATHERED),
    "moe-dp2-ep2-gathered": layout(model="qwen3-moe", dp=2, ep=2, kernels=GATHERED),
    "moe-tp2-sp-ep2-etp1-gathered": layout(
        model="qwen3-moe", tp=2, ep=2, etp=1, sequence_parallel=True, kernels=GATHERED
    ),
    "moe-fusion": layout(model="qwen3-moe", kernels=FUSED),
    "bf16": layout(dtype="bfloat16"),
    "bf16-tp2-sp": layout(dtype="bfloat16", tp=2, sequence_parallel=True, kernels=VARLEN),
    "bf16-cp2": layout(dtype="bfloat16", cp=2, kernels=VARLEN),
    "bf16-pp2-vpp2": layout(dtype="bfloat16", pp=2, vpp=2),
    "bf16-dp2-distopt": layout(dtype="bfloat16", dp=2, distributed_optimizer=True),
    "bf16-recompute-light": layout(dtype="bfloat16", recompute="light"),
    "bf16-recompute-full": layout(dtype="bfloat16", recompute="full"),
}
MORE_LAYOUTS = {
    "pp2-vpp2-tp2-sp": layout(pp=2, vpp=2, tp=2, sequence_parallel=True),
    "dp2-tp2-sp-distopt": layout(dp=2, tp=2, sequence_parallel=True, distributed_optimizer=True),
    "dp2-cp2-distopt": layout(dp=2, cp=2, distributed_optimizer=True),
    "dp2-pp2-distopt": layout(dp=2, pp=2, distributed_optimizer=True),
    "dp2-pp2-vpp2-distopt": layout(dp=2, pp=2, vpp=2, distributed_optimizer=True),
    "moe-tp2-sp": layout(model="qwen3-moe", tp=2, sequence_parallel=True),
    "moe-dp2-ep2-distopt": layout(model="qwen3-moe", dp=2, ep=2, distributed_optimizer=True),
    "moe-cp2-ep2": layout(model="qwen3-moe", cp=2, ep=2),
    "moe-dp2-tp2-sp-ep2": layout(model="qwen3-moe", dp=2, tp=2, ep=2, sequence_parallel=True),
    "moe-pp2-vpp2-dp2-ep2": layout(model="qwen3-moe", pp=2, vpp=2, dp=2, ep=2),
}
"""Of test_every_layout.py's, for the other tests."""
# No bf16 rows with experts: rounding then moves some tokens to other experts, which no tolerance covers.
FP32 = {name: row for name, row in (LAYOUTS | MORE_LAYOUTS).items() if row.dtype == "float32"}


def load(
    folder: Path, topology: Topology, source: TensorSource | None = None, row: Layout | None = None
) -> PolicyModel:
    """This rank's part of the model in `folder`; its tensors may be read through another `source`."""
    family = read_family(folder)
    row = row or Layout()
    settings = ModelConfig(path=folder, dtype=row.dtype, recompute=row.recompute, kernels=row.kernels)
    if source is not None:
        return build_model(family, topology, settings, source)
    with SafetensorsFolder(folder) as tensors:
        return build_model(family, topology, settings, tensors)


def hf_weights(model: PolicyModel) -> dict[str, torch.Tensor]:
    """All weights by Hugging Face name. A collective."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in model.hf_tensors()}


def hf_gradients(model: PolicyModel, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """The gradients that the optimizer has just used, by the Hugging Face names of their parameters. A collective."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in optimizer.hf_gradients(model)}


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest difference, relative to the largest of `want`; what is zero (an expert without tokens) must be zero."""
    assert got.shape == want.shape
    difference, scale = float((got - want).abs().max()), float(want.abs().max())
    return difference / scale if scale else (0.0 if difference == 0.0 else math.inf)
