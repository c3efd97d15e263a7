"""Where megatron-core's optimizers keep the state of each parameter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
MAIN_WEIGHT = "fp32_param"


@dataclass(frozen=True)
class Slot:
    """What Adam holds for elements start..stop of a (flattened) parameter: its state of `main`, in `adam`.

    `main` is the parameter itself or a view of it, or with a bf16 model an fp32 tensor of its own; None where the
    distributed optimizer gives this rank no element. `group`: the ranks that share the parameter in that case.
    """

    parameter: Tensor
    main: Tensor | None
    adam: Any
    start: int
    stop: int
    group: dist.ProcessGroup | None

    @property
    def separate(self) -> bool:
        """Whether the weight that Adam updates is an fp32 one beside the parameter."""
        return self.parameter.dtype != torch.float32


def slots_of(part: Any) -> Iterator[Slot]:
    """Of one of megatron's optimizers (no chain of them), each parameter of this rank."""
    if isinstance(part, DistributedOptimizer):
        yield from _distributed_slots(part)
        return
    parameter_of: dict[Tensor, Tensor] = {}
    if isinstance(part, Float16OptimizerWithFloat16Params):
        for own, main in zip(part.float16_groups, part.fp32_from_float16_groups, strict=True):
            parameter_of |= zip(main, own, strict=True)
    for group in part.optimizer.param_groups:
        for main in group["params"]:
            yield Slot(parameter_of.get(main, main), main, part.optimizer, 0, main.numel(), None)


def _distributed_slots(part: DistributedOptimizer) -> Iterator[Slot]:
    for buffer in part.buffers:
        for parameter in buffer.param_index_map:
            main, start, stop = None, 0, 0
            if parameter in part.model_param_group_index_map:
                group, order = part.model_param_group_index_map[parameter]
                main = part.optimizer.param_groups[group]["params"][order]
                span = part._get_model_param_range_map(parameter)["param"]
                start, stop = span.start, span.end
            yield Slot(parameter, main, part.optimizer, start, stop, part.data_parallel_group)
