"""megatron-core's Adam over its gradient buffers, and the course of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from torch import Tensor

from aspo_megatron.config import OptimizerConfig
from aspo_megatron.parallel.model import PolicyModel


class Optimizer:
    """The model's chunks inside megatron's gradient buffers (`chunks`), and what updates them."""

    def __init__(
        self, model: PolicyModel, config: OptimizerConfig, updates: int, *, distributed_optimizer: bool
    ) -> None:
        """`updates`: how many there will be, the length of a decaying schedule."""
        self._distributed = distributed_optimizer
        # Gradients are summed in fp32, and at once after backward: overlapping the sum with it, or the gather of
        # parameters with the next forward, would leave weights stale that are exported in between.
        buffers = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=distributed_optimizer,
            overlap_grad_reduce=False,
            overlap_param_gather=False,
        )
        self.chunks = [DistributedDataParallel(model.config, buffers, chunk) for chunk in model.chunks]
        dtype = model.config.params_dtype
        self._adam = get_megatron_optimizer(
            MegatronOptimizerConfig(
                optimizer="adam",
                lr=config.lr,
                min_lr=config.min_lr,
                weight_decay=config.weight_decay,
                adam_beta1=config.beta1,
                adam_beta2=config.beta2,
                adam_eps=config.eps,
                clip_grad=config.clip_grad or math.inf,  # no limit, and the norm is still measured
                params_dtype=dtype,
                bf16=dtype == torch.bfloat16,
                use_distributed_optimizer=distributed_optimizer,
            ),
            self.chunks,
        )
        self._schedule = OptimizerParamScheduler(
            self._adam,
            init_lr=0.0,
            max_lr=config.lr,
            min_lr=config.min_lr if config.schedule != "constant" else config.lr,
            lr_warmup_steps=config.warmup_updates,
            lr_decay_steps=max(updates, config.warmup_updates + 1),
            lr_decay_style=config.schedule,
            start_wd=config.weight_decay,
            end_wd=config.weight_decay,
            wd_incr_steps=0,
            wd_incr_style="constant",
        )
        self._schedule.step(increment=1 if config.warmup_updates else 0)  # an update at lr 0 would be lost

    def zero_grad(self) -> None:
        """Forget the gradients of the last update."""
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self._adam.zero_grad()

    @torch.no_grad()
    def hf_gradients(self, model: PolicyModel) -> Iterator[tuple[str, Tensor]]:
        """The gradients of the last update (after clipping), fp32, by the Hugging Face names of their parameters.

        A collective over all ranks. For checks.
        """
        groups = [
            group for chunk in self.chunks for group in (*chunk.bucket_groups, *chunk.expert_parallel_bucket_groups)
        ]
        for group in groups if self._distributed else ():
            for bucket in group.buckets:
                # A rank has the sum over replicas of its own slice only: fetch the others.
                ranks = group.intra_distributed_optimizer_instance_group
                slices = list(bucket.grad_data.chunk(ranks.size()))
                dist.all_gather(slices, slices[ranks.rank()].clone(), group=ranks)
        yield from model.hf_tensors(lambda parameter: parameter.main_grad)  # type: ignore[attr-defined]

    def step(self) -> tuple[float, float]:
        """Clip the gradients, update the weights; returns the gradient norm before clipping, and the rate used."""
        lr = float(self._adam.param_groups[0]["lr"])
        _, norm, _ = self._adam.step()
        self._schedule.step(increment=1)
        return float(norm), lr
