"""megatron-core's Adam over its gradient buffers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import ChainedOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.parallel_state import get_global_memory_buffer
from torch import Tensor

from aspo_megatron.config import OptimizerConfig, ParallelConfig
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.update.host_state import HostState
from aspo_megatron.parallel.update.schedule import Schedule
from aspo_megatron.parallel.update.slots import MAIN_WEIGHT, MOMENTS, Slot, slots_of


class Optimizer:
    """The model's chunks inside megatron's gradient buffers (`chunks`), and what updates them."""

    def __init__(self, model: PolicyModel, config: OptimizerConfig, updates: int, parallel: ParallelConfig) -> None:
        """`updates`: how many there will be, the length of a decaying schedule."""
        self._distributed = parallel.distributed_optimizer
        device = model.topology.platform.device
        self._away: HostState | None = None
        self._fence: Callable[[], None] | None = None
        self._updates = 0
        # Gradients are summed in fp32. Overlapping the gather of parameters with the next forward would leave weights
        # stale that are exported in between.
        buffers = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=self._distributed,
            overlap_grad_reduce=parallel.overlap_grad_reduce,
            overlap_param_gather=False,
        )
        self.chunks = [DistributedDataParallel(model.config, buffers, chunk) for chunk in model.chunks]
        if parallel.overlap_grad_reduce:  # summed once, after the last micro-batch
            no_sync = [chunk.no_sync for chunk in self.chunks]
            model.config.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]
        if device.type != "cpu":  # they come with the first update: room for fp32 weights until these are away
            self.release()
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
                use_distributed_optimizer=self._distributed,
            ),
            self.chunks,
        )
        for part in self._parts():
            if isinstance(part.optimizer, torch.optim.Adam):  # not Transformer Engine's or Apex's, which always are
                for group in part.optimizer.param_groups:
                    group["fused"] = True  # one pass over a parameter and its moments: a quarter of the time on CPU
        if config.offload and device.type != "cpu":
            self._send_away(device)
        self._schedule = Schedule(self._adam, config, updates)

    def _send_away(self, device: torch.device) -> None:
        """Keep Adam's state in the host's memory from here on, before the first update."""
        self._away = HostState(device, self._parts())

    def zero_grad(self) -> None:
        """Forget the gradients of the last update, and have memory for those of the next."""
        for buffer in self._gradient_buffers():
            if not buffer.untyped_storage().nbytes():
                buffer.untyped_storage().resize_(buffer.nbytes)
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self._adam.zero_grad()

    def release(self) -> None:
        """Give back memory that passes and updates alone need: gradients, what sequence parallelism gathers into.

        Gradients are lost until `zero_grad`; parameters keep their views of them.
        """
        for buffer in self._gradient_buffers():
            buffer.untyped_storage().resize_(0)
        get_global_memory_buffer().buffer.clear()

    def _gradient_buffers(self) -> list[Tensor]:
        return [
            buffer.grad_data for chunk in self.chunks for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers)
        ]

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

    @property
    def lr(self) -> float:
        """The rate of the next update."""
        return float(self._adam.param_groups[0]["lr"])

    def stand_at(self, place: int) -> None:
        """Make the next update at `place` in the run, counted from 0; else it follows the one before."""
        self._schedule.stand_at(place)

    def step(self) -> tuple[float, float]:
        """Clip the gradients, update the weights; returns the gradient norm before clipping, and the rate used."""
        lr = self.lr
        if self._fence is not None:
            self._fence()
            self._fence = None
        done, norm, _ = self._adam.step()
        self._updates += int(done)
        self._schedule.stand_at(self._schedule.place + 1)
        return float(norm), lr

    def update_after(self, fence: Callable[[], None]) -> None:
        """Call `fence` before the next update changes anything: somebody still reads weights and state."""
        self._fence = fence

    # ---- its state, for checkpoints --------------------------------------------------------------------------

    @property
    def splits_state(self) -> bool:
        """Whether each data-parallel rank holds a part of the state, not all of it."""
        return self._distributed

    def state_names(self) -> tuple[str, ...]:
        """What `states` gives of each parameter: both moments, and the fp32 weight where the model is not in fp32."""
        separate = any(slot.parameter.dtype != torch.float32 for slot in self._slots())
        return (*MOMENTS, MAIN_WEIGHT) if separate else MOMENTS

    def counters(self) -> dict[str, int]:
        """Updates made, and the number of the next one in the run, from 1: those left out count there."""
        return {"updates": self._updates, "scheduled": self._schedule.place + 1}

    def states(self) -> Iterator[tuple[Tensor, str, Tensor | None]]:
        """Each parameter of this rank, with each of `state_names`, fp32, in its shape; nothing before an update.

        With a distributed optimizer this is a collective over the replicas, which must draw the whole iterator: the
        parts are brought together on one replica, another for each parameter; the others get None. Such a tensor is
        made as it is drawn, and nobody else holds it. (`torch.no_grad` around a generator would, until the next.)
        """
        if not self._updates:
            return
        if self._away is not None:
            self._away.wait()
        names = self.state_names()
        for number, slot in enumerate(self._slots()):
            for name in names:
                if slot.group is None:
                    yield slot.parameter, name, self._value(slot, name)
                elif number % slot.group.size() == slot.group.rank():
                    yield slot.parameter, name, _from_parts(slot, self._value(slot, name))
                else:
                    _from_parts(slot, self._value(slot, name))
                    yield slot.parameter, name, None

    @torch.no_grad()
    def load_states(self, name: str, wholes: dict[Tensor, Tensor]) -> None:
        """Take over one of `state_names` for all parameters, from fp32 tensors in their shapes, which are used up.

        They are on the parameters' device or on the host.
        """
        if self._away is not None:
            self._away.wait()
        for slot in self._slots():
            if slot.main is None:
                continue
            part = wholes[slot.parameter].view(-1)[slot.start : slot.stop].view(slot.main.shape)
            if self._away is not None:
                self._away.value(slot, name).copy_(part)
            elif name == MAIN_WEIGHT:
                slot.main.copy_(part)
            else:
                own = part if slot.group is None else part.clone()
                slot.adam.state[slot.main][name] = own.to(slot.main.device)

    @torch.no_grad()
    def load_counters(self, counters: dict[str, int]) -> None:
        """Go on from `counters` of another run; call after `load_states`."""
        self._updates = updates = counters["updates"]
        if self._away is not None:
            self._away.stand_at(updates)
        for slot in self._slots() if updates else ():
            if slot.main is None:
                continue
            if isinstance(slot.adam, torch.optim.Adam):
                step = torch.tensor(float(updates), dtype=torch.float32, device=slot.main.device)
                slot.adam.state[slot.main]["step"] = step
            else:  # Transformer Engine's and Apex's count for a group of parameters
                for group in slot.adam.param_groups:
                    group["step"] = updates
        self._schedule.stand_at(counters["scheduled"] - 1)

    def _parts(self) -> list[Any]:
        adam = self._adam
        return list(adam.chained_optimizers) if isinstance(adam, ChainedOptimizer) else [adam]

    def _slots(self) -> Iterator[Slot]:
        for part in self._parts():
            yield from slots_of(part)

    def _value(self, slot: Slot, name: str) -> Tensor | None:
        if slot.main is None:
            return None
        if self._away is not None:
            return self._away.value(slot, name)
        value: Tensor = slot.main if name == MAIN_WEIGHT else slot.adam.state[slot.main][name]
        return value


@torch.no_grad()
def _from_parts(slot: Slot, part: Tensor | None) -> Tensor:
    """The whole of which each rank of the group holds a part. Added up as bits, so that not even a sign is lost."""
    whole = torch.zeros(slot.parameter.shape, dtype=torch.float32, device=slot.parameter.device)
    bits = whole.view(-1).view(torch.int32)
    if part is not None:
        # Moments may be in page-locked memory of the host, which nothing writes before the next update.
        bits[slot.start : slot.stop].copy_(part.reshape(-1).view(torch.int32), non_blocking=True)
    dist.all_reduce(bits, group=slot.group)
    return whole
