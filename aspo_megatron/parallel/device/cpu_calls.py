"""What stands in for CUDA where megatron-core asks for it and there is no GPU; `CpuPlatform` puts it in place."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from platform import libc_ver
from typing import Any

import torch
from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3), from glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Have malloc keep the memory of freed tensors for the next ones.

    glibc gives blocks of megabytes back to the kernel as they are freed, and each new one costs a page fault for every
    4 KiB. 32 MiB is the most that it lets grow in its own heap; larger tensors are mapped still. It holds until the
    process ends, as glibc cannot tell what was set before. Where glibc's own variables say otherwise, they hold.
    """
    set_by_user = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys()
    if libc_ver()[0] == "glibc" and not set_by_user:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def not_compiled(model: Callable[..., Any] | None = None, **_: Any) -> Any:
    """A stand-in for torch.compile, which is called as a decorator with and without options."""
    return model if model is not None else lambda function: function


def on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`factory` with a CUDA device and pinned memory turned into plain CPU memory."""

    @functools.wraps(factory)
    def factory_on_cpu(*args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = torch.device("cpu")
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    return factory_on_cpu


def cuda_type_names(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Tensor.type`, which calls every tensor one of CUDA's."""

    @functools.wraps(original)
    def cuda_type_name(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(tensor, *args, **kwargs)
        if isinstance(result, str) and not result.startswith("torch.cuda."):
            return result.replace("torch.", "torch.cuda.", 1)
        return result

    return cuda_type_name


def sizes_as_numbers(dispatcher: Any, point: str, tokens_per_expert: Tensor | None = None) -> Tensor | None:
    """Gives collectives the numbers that they want in place of tensors."""
    if point == dispatcher.cuda_dtoh_point:
        for name in ("input_splits", "output_splits", "output_splits_tp"):
            sizes = getattr(dispatcher, name)
            setattr(dispatcher, name, sizes.numpy() if isinstance(sizes, Tensor) else sizes)
    return tokens_per_expert


def gather_uneven(equal: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Megatron's gather along the first dim, by an equal one of padded parts where their sizes differ."""

    @functools.wraps(equal)
    def gather(own: Tensor, group: Any, output_split_sizes: Any = None, use_global_buffer: bool = False) -> Tensor:
        if output_split_sizes is None or group.size() == 1:
            return equal(own, group, None, use_global_buffer)
        sizes = [int(size) for size in output_split_sizes]
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in sizes]
        torch.distributed.all_gather(parts, padded, group=group)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    return gather


def scatter_uneven(equal: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Megatron's reduce-scatter along the first dim, by an all-reduce where the sizes of parts differ."""

    @functools.wraps(equal)
    def scatter(whole: Tensor, group: Any, input_split_sizes: Any = None, use_global_buffer: bool = False) -> Tensor:
        if input_split_sizes is None or group.size() == 1:
            return equal(whole, group, None, use_global_buffer)
        total = whole.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=group)
        parts: tuple[Tensor, ...] = total.split([int(size) for size in input_split_sizes])
        own: Tensor = parts[group.rank()]
        return own.contiguous()

    return scatter


def cpu_rng_tracker(tracker: type) -> type:
    """A subclass of megatron's random-state tracker that keeps states of the CPU generator."""

    class CpuRNGStatesTracker(tracker):
        """Same interface; states are those of torch's CPU generator."""

        def add(self, name: str, seed: int) -> None:
            """Start a state `name` from `seed`."""
            if name in self.states_ or seed in self.seeds_:
                raise ValueError(f"random state {name!r} or seed {seed} was added before")
            self._is_initialized = True
            self.seeds_.add(seed)
            self.states_[name] = torch.Generator().manual_seed(seed).get_state()

        @contextlib.contextmanager
        def fork(self, name: str = "model-parallel-rng") -> Iterator[None]:
            """Draw from the state `name` within the block."""
            outside = torch.get_rng_state()
            torch.set_rng_state(self.states_[name])
            try:
                yield
            finally:
                self.states_[name] = torch.get_rng_state()
                torch.set_rng_state(outside)

    return CpuRNGStatesTracker
