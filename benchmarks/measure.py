"""Time and peak memory of functions, on CPU and on GPU. Nothing here knows what is measured."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call."""
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def interleaved(
    functions: Mapping[str, Callable[[], object]], device: torch.device, repeats: int, limit: float
) -> dict[str, list[float]]:
    """Seconds of calls in rounds, one of each function, so that a busy machine is busy for all of them.

    Args:
        functions: by name; run once before, by the caller.
        device: where they run.
        repeats: the most rounds.
        limit: seconds after which no new round begins. There is one round at least.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    for number in range(repeats):
        if number and time.perf_counter() - start > limit:
            break
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    return times


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Bytes that one call takes at its peak beyond what was there before.

    On a GPU from PyTorch's allocator; on CPU the peak resident memory of this process, which Linux counts. Where malloc
    is told to keep freed memory, as in training, that is more than what was in use at a time.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    before = _kibibytes(_STATUS, "VmRSS")
    function()
    return max(_kibibytes(_STATUS, "VmHWM") - before, 0)


def free_bytes(device: torch.device) -> int:
    """Memory that can be taken."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return _kibibytes(Path("/proc/meminfo"), "MemAvailable")


def machine(device: torch.device) -> str:
    """What a table says about where it was measured."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}"
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return f"{model}, {os.cpu_count()} cores, PyTorch {torch.__version__}"


def _kibibytes(path: Path, field: str) -> int:
    """A field of one of Linux's tables, in bytes."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{path} has no {field}: memory on CPU is measured on Linux only")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
