"""megatron-core on the stand-in: what it asks of CUDA is answered by it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from aspo_megatron.parallel.cpu_calls import cpu_rng_tracker, not_compiled
from aspo_megatron.parallel.kernels import Machine
from aspo_megatron.parallel.packages import Packages
from aspo_megatron.parallel.platform import Platform
from aspo_megatron.simulation.collectives import (
    broadcast_objects,
    gather_object,
    gather_object_to_one,
    scatter_objects,
)
from aspo_megatron.simulation.device import StandIn
from aspo_megatron.simulation.devices import gpu
from aspo_megatron.simulation.streams import on_stream, stream_classes

_CAPABILITY = (9, 0)
_MEMORY = 80 << 30


class StandInPlatform(Platform):
    """A GPU of Hopper's kind, as far as it needs no values."""

    backend = "stand_in"

    def __init__(self, stand_in: StandIn, packages: Packages) -> None:
        super().__init__()
        self.device = gpu()
        self.machine = Machine(packages, _CAPABILITY, "Triton", packages.triton)
        self._stand_in = stand_in

    def install(self) -> None:
        """See `Platform`."""
        self._replace_cuda()
        self._replace_torch()
        self._replace(torch, "compile", not_compiled)
        self._replace_rng_tracker()
        self._complete_local_layers()

    def _replace_cuda(self) -> None:
        ledger = self._stand_in.ledger
        event, stream = stream_classes(ledger)
        one = stream()
        answers: dict[str, Any] = {
            "current_device": lambda: self.device,
            "set_device": lambda *_: None,
            "device_count": lambda: 1,
            "synchronize": lambda *_, **__: ledger.wait("synchronize"),
            "Event": event,
            "Stream": stream,
            "current_stream": lambda *_, **__: one,
            "default_stream": lambda *_, **__: one,
            "stream": on_stream,
            "manual_seed": torch.manual_seed,
            "empty_cache": lambda: None,
            "get_device_capability": lambda *_: _CAPABILITY,
            "get_device_properties": lambda *_: SimpleNamespace(
                total_memory=_MEMORY, multi_processor_count=132, major=9
            ),
            "mem_get_info": lambda *_: (_MEMORY - ledger.held_bytes, _MEMORY),
            "memory_allocated": lambda *_: ledger.held_bytes,
            "max_memory_allocated": lambda *_: ledger.peak_bytes,
        }
        for name, answer in answers.items():
            self._replace(torch.cuda, name, answer)

    def _replace_torch(self) -> None:
        self._replace(torch.nn.Module, "_apply", _apply)
        self._replace(Tensor, "record_stream", lambda tensor, stream: None)
        resize = torch.UntypedStorage.resize_

        def tolist(tensor: Tensor) -> Any:  # FakeTensor's own asks for one number after the other
            return self._stand_in.numbers(tensor)

        self._replace(FakeTensor, "tolist", tolist)

        @functools.wraps(resize)
        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            self._stand_in.ledger.resized(storage)
            return result

        self._replace(torch.UntypedStorage, "resize_", resized)
        new_group = dist.new_group

        @functools.wraps(new_group)
        def of_the_same_backend(*args: Any, backend: Any = None, **options: Any) -> Any:
            return new_group(*args, **options)

        self._replace(dist, "new_group", of_the_same_backend)  # megatron asks for gloo by name for some
        self._replace(dist, "all_gather_object", gather_object)
        self._replace(dist, "broadcast_object_list", broadcast_objects)
        self._replace(dist, "gather_object", gather_object_to_one)
        self._replace(dist, "scatter_object_list", scatter_objects)

    def _replace_rng_tracker(self) -> None:
        from megatron.core.tensor_parallel import random as megatron_random

        self._replace(megatron_random, "CudaRNGStatesTracker", cpu_rng_tracker(megatron_random.CudaRNGStatesTracker))
        self._replace(megatron_random, "_get_cuda_rng_state", lambda *_, **__: torch.get_rng_state())
        self._replace(megatron_random, "_set_cuda_rng_state", lambda *_, **__: None)


def _apply(module: torch.nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> torch.nn.Module:
    """In place of `torch.nn.Module._apply`, which cannot make another kind of tensor of a parameter."""
    for part in module.modules() if recurse else [module]:
        for name, parameter in part._parameters.items():
            if parameter is None:
                continue
            with torch.no_grad():
                changed = change(parameter)
            if changed is not parameter:
                moved = torch.nn.Parameter(changed, parameter.requires_grad)
                moved.__dict__.update(parameter.__dict__)
                part._parameters[name] = moved
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = change(buffer)
    return module
