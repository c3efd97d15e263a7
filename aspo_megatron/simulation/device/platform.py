"""megatron-core on the stand-in: what it asks of CUDA is answered by it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from aspo_megatron.parallel.device.cpu_calls import cpu_rng_tracker
from aspo_megatron.parallel.device.kernels import Machine
from aspo_megatron.parallel.device.packages import Packages
from aspo_megatron.parallel.device.platform import Platform, import_megatron
from aspo_megatron.simulation.device.collectives import (
    broadcast_objects,
    gather_object,
    gather_object_to_one,
    scatter_objects,
)
from aspo_megatron.simulation.device.devices import gpu, on_gpu
from aspo_megatron.simulation.device.fused import compiled_as_one
from aspo_megatron.simulation.device.operations import StandIn
from aspo_megatron.simulation.device.python_calls import PythonCalls
from aspo_megatron.simulation.device.streams import on_stream_of, stream_classes

HOPPER = (9, 0)
MEMORY = 80 << 30


class StandInPlatform(Platform):
    """A GPU, as far as it needs no values."""

    backend = "stand_in"

    def __init__(
        self,
        stand_in: StandIn,
        packages: Packages,
        memory: int = MEMORY,
        reserved: int = 0,
        capability: tuple[int, int] = HOPPER,
    ) -> None:
        super().__init__()
        self._memory, self._reserved = memory, reserved
        self.device = gpu()
        self.machine = Machine(packages, capability)
        self._stand_in = stand_in

    def install(self) -> None:
        """See `Platform`."""
        self._replace_cuda()
        self._replace_torch()
        self._replace(torch, "compile", compiled_as_one)
        import_megatron()
        self._replace_rng_tracker()
        self._complete_local_layers()

    def _replace_cuda(self) -> None:
        ledger = self._stand_in.ledger
        timeline = self._stand_in.timeline
        event, stream = stream_classes(self._stand_in)
        answers: dict[str, Any] = {
            "current_device": lambda: self.device,
            "set_device": lambda *_: None,
            "device_count": lambda: 1,
            "synchronize": lambda *_, **__: self._stand_in.synchronize(),
            "Event": event,
            "Stream": stream,
            "current_stream": lambda *_, **__: stream(clock=timeline.current),
            "default_stream": lambda *_, **__: stream(clock=timeline.main),
            "stream": on_stream_of(self._stand_in),
            "manual_seed": torch.manual_seed,
            "empty_cache": lambda: None,
            "get_device_capability": lambda *_: self.machine.capability,
            "get_device_properties": lambda *_: SimpleNamespace(
                total_memory=self._memory, multi_processor_count=132, major=9
            ),
            "mem_get_info": lambda *_: (self._memory - self._reserved - ledger.held_bytes, self._memory),
            "memory_allocated": lambda *_: ledger.held_bytes,
            "max_memory_allocated": lambda *_: ledger.peak_bytes,
        }
        for name, answer in answers.items():
            self._replace(torch.cuda, name, answer)

    def _replace_torch(self) -> None:
        self._replace(torch.nn.Module, "_apply", _apply_with_marks(torch.nn.Module._apply))
        self._replace(
            Tensor, "record_stream", lambda tensor, stream: self._stand_in.timeline.keep(tensor, stream.clock)
        )
        self._replace_storages()
        self._replace_threads()

        def tolist(tensor: Tensor) -> Any:  # FakeTensor's own asks for one number after the other
            return self._stand_in.numbers(tensor)

        self._replace(FakeTensor, "tolist", tolist)

        new_group = dist.new_group

        @functools.wraps(new_group)
        def of_the_same_backend(*args: Any, backend: Any = None, **options: Any) -> Any:
            return new_group(*args, **options)

        self._replace(dist, "new_group", of_the_same_backend)  # megatron asks for gloo by name for some
        self._replace(dist, "all_gather_object", gather_object)
        self._replace(dist, "broadcast_object_list", broadcast_objects)
        self._replace(dist, "gather_object", gather_object_to_one)
        self._replace(dist, "scatter_object_list", scatter_objects)

    def _replace_storages(self) -> None:
        resize = torch.UntypedStorage.resize_

        @functools.wraps(resize)
        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            if storage.device.type == "meta":
                self._stand_in.resized(storage)
            return result

        self._replace(torch.UntypedStorage, "resize_", resized)

    def _replace_threads(self) -> None:
        """Threads of the program compute with the same device; modes are each thread's own."""
        run = threading.Thread.run

        @functools.wraps(run)
        def with_device(thread: threading.Thread) -> None:
            with PythonCalls(self._stand_in), self._stand_in:
                run(thread)

        self._replace(threading.Thread, "run", with_device)

    def _replace_rng_tracker(self) -> None:
        from megatron.core.tensor_parallel import random as megatron_random

        self._replace(megatron_random, "CudaRNGStatesTracker", cpu_rng_tracker(megatron_random.CudaRNGStatesTracker))
        self._replace(megatron_random, "_get_cuda_rng_state", lambda *_, **__: torch.get_rng_state())
        self._replace(megatron_random, "_set_cuda_rng_state", lambda *_, **__: None)


def _apply_with_marks(apply: Callable[..., torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    """`torch.nn.Module._apply` that can make another kind of tensor of a parameter, which keeps its marks and ties."""

    def replaced(module: torch.nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> torch.nn.Module:
        first = next(chain(module.parameters(recurse), module.buffers(recurse)), None)
        if first is None or on_gpu(first) or not on_gpu(change(first.detach())):
            return apply(module, change, recurse)
        moved: dict[int, Any] = {}
        for part in module.modules() if recurse else [module]:
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = moved.setdefault(id(parameter), _moved(parameter, change))
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = moved.setdefault(id(buffer), change(buffer))
        return module

    return replaced


def _moved(parameter: torch.nn.Parameter, change: Callable[[Tensor], Tensor]) -> torch.nn.Parameter:
    with torch.no_grad():
        moved = torch.nn.Parameter(change(parameter), parameter.requires_grad)
    moved.__dict__.update(parameter.__dict__)
    return moved
