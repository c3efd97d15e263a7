"""The layouts that must all compute the same. Adding one is adding a line."""

from __future__ import annotations

from pathlib import Path

import torch

from aspo_megatron.checkpoint.hf import SafetensorsFolder
from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.models.family import read_family
from aspo_megatron.models.mapping import TensorSource
from aspo_megatron.parallel.model import PolicyModel, build_model
from aspo_megatron.parallel.optimizer import Optimizer
from aspo_megatron.parallel.topology import Topology

PLATFORM = PlatformConfig(device="cpu", timeout_minutes=2)

LAYOUTS = {
    "single": ParallelConfig(),
    "tp2": ParallelConfig(tp=2),
    "tp3": ParallelConfig(tp=3),
    "tp2-sp": ParallelConfig(tp=2, sequence_parallel=True),
    "cp2": ParallelConfig(cp=2),
    "cp2-tp2-sp": ParallelConfig(cp=2, tp=2, sequence_parallel=True),
    "pp2": ParallelConfig(pp=2),
    "pp2-tp2-sp": ParallelConfig(pp=2, tp=2, sequence_parallel=True),
    "pp2-cp2": ParallelConfig(pp=2, cp=2),
    "dp2": ParallelConfig(dp=2),
    "dp2-distopt": ParallelConfig(dp=2, distributed_optimizer=True),
    "dp3-distopt": ParallelConfig(dp=3, distributed_optimizer=True),
    "dp2-tp2": ParallelConfig(dp=2, tp=2),
    "dp2-tp2-sp-distopt": ParallelConfig(dp=2, tp=2, sequence_parallel=True, distributed_optimizer=True),
    "dp2-cp2-distopt": ParallelConfig(dp=2, cp=2, distributed_optimizer=True),
    "dp2-pp2-distopt": ParallelConfig(dp=2, pp=2, distributed_optimizer=True),
}


def load(folder: Path, topology: Topology, source: TensorSource | None = None) -> PolicyModel:
    """This rank's part of the model in `folder`, in fp32; its tensors may be read through another `source`."""
    family = read_family(folder)
    if source is not None:
        return build_model(family, topology, torch.float32, source)
    with SafetensorsFolder(folder) as tensors:
        return build_model(family, topology, torch.float32, tensors)


def hf_weights(model: PolicyModel) -> dict[str, torch.Tensor]:
    """All weights by Hugging Face name. A collective."""
    return {name: tensor.clone() for name, tensor in model.hf_tensors()}


@torch.no_grad()
def hf_gradients(model: PolicyModel, optimizer: Optimizer, layout: ParallelConfig) -> dict[str, torch.Tensor]:
    """The gradients that the optimizer has just used, by the Hugging Face names of their parameters. A collective."""
    if layout.distributed_optimizer:
        _complete_gradients(optimizer)
    weights = [parameter.data for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.data = parameter.main_grad
    gradients = hf_weights(model)
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        parameter.data = weight
    return gradients


def _complete_gradients(optimizer: Optimizer) -> None:
    """With a distributed optimizer a rank holds the sum of its own slice of each bucket only: fetch the others."""
    for group in optimizer.ddp.bucket_groups:
        for bucket in group.buckets:
            ranks = group.intra_distributed_optimizer_instance_group
            slices = list(bucket.grad_data.chunk(ranks.size()))
            torch.distributed.all_gather(slices, slices[ranks.rank()].clone(), group=ranks)
