"""Figures that sections draw: errors against a reference, times, counts of kernels."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_AT_A_TIME = 1 << 26
"""Numbers that are widened to fp64 at the same time."""


def relative(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||, in fp64; NaN where either has one, or shapes differ."""
    return distance(got, want) / norm(want)


def distance(got: Tensor, want: Tensor) -> float:
    """||got - want||, in fp64; NaN if shapes differ."""
    if got.shape != want.shape:
        return float("nan")
    parts = zip(_parts(got), _parts(want), strict=True)
    return math.sqrt(sum(float((one.double() - other.double()).square().sum()) for one, other in parts))


def norm(tensor: Tensor) -> float:
    """Its norm, in fp64."""
    return math.sqrt(sum(float(part.double().square().sum()) for part in _parts(tensor)))


def farthest(got: Tensor, want: Tensor) -> float:
    """The largest |got - want|; NaN where either has one, or shapes differ. Equal infinities are no distance."""
    if got.shape != want.shape:
        return float("nan")
    got, want = got.double(), want.double()
    return float(torch.where(got == want, 0.0, (got - want).abs()).max())


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    rows = tensor.reshape(-1, tensor.shape[-1] if tensor.dim() else 1)
    parts: tuple[Tensor, ...] = rows.split(max(_AT_A_TIME // max(rows.size(1), 1), 1))
    return parts


def fresh_random(device: torch.device) -> None:
    """Other random numbers than in any run before; prints how to have them again."""
    print(f"torch.manual_seed({torch.seed()}) on {device}", flush=True)


def poison(device: torch.device, mebibytes: int = 1024) -> None:
    """Fill memory with NaN and give it back, so that what a kernel allocates and does not write is seen to be wrong."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # nothing but this is there to be given out again
        small = [torch.full((1 << 16,), torch.nan, device=device) for _ in range(64)]  # PyTorch has a pool for these
        del small
        torch.full((mebibytes << 18,), torch.nan, device=device)


def seconds(functions: Mapping[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
    """The median time of each, of calls that take turns after one call of each to warm up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(_once(function, device))
    return {name: statistics.median(found) for name, found in times.items()}


def _once(function: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    torch.cuda.synchronize(device)
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    function()
    after.record()
    torch.cuda.synchronize(device)
    return float(before.elapsed_time(after)) / 1000


def kernels(function: Callable[[], object], device: torch.device) -> int:
    """Kernels and copies that a call starts on a GPU, by the profiler; operations of PyTorch on a CPU."""
    if device.type != "cuda":
        counted = _Counted()
        with counted:
            function()
        return counted.number
    from torch._C._autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    function()
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        function()
        torch.cuda.synchronize(device)
    on_gpu = [event for event in profiled.events() or () if event.device_type == DeviceType.CUDA]
    return sum(not event.is_user_annotation for event in on_gpu)


class _Counted(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        self.number += 1
        return func(*args, **(kwargs or {}))
