"""How often the host waits for the GPU, and copies from memory that is not page-locked, by two instruments.

PyTorch's sync debug mode warns, with the place, of copies that block, of numbers read, of results whose size depends on
values, and of `Stream.synchronize`. It does not see `torch.cuda.synchronize`, `Event.synchronize`, what libraries and
collectives do, and copies of pageable memory that are called non-blocking, for which the driver waits all the same.
The profiler sees all calls of CUDA that wait, and the kind of memory of each copy, but no places.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

_MESSAGE = "called a synchronizing CUDA operation"
_STRETCH = "gpu_check: stretch"
_WAITING_CALLS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
_PAGEABLE = "Memcpy HtoD (Pageable -> Device)"


@dataclass(frozen=True)
class Watched:
    """Of a stretch of work.

    Attributes:
        places: where sync debug mode saw the host wait, and how often.
        calls: of CUDA that wait, by name, as the profiler saw them.
        pageable: copies to the GPU from memory that is not page-locked.
    """

    places: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    pageable: int = 0

    @property
    def waits(self) -> int:
        """As many as the instrument saw that saw more."""
        return max(self.places.total(), self.calls.total())

    def __str__(self) -> str:
        where = ", ".join(f"{place} x{count}" for place, count in self.places.items()) or "nowhere"
        return f"waits at {where}; {', '.join(f'{call} x{count}' for call, count in self.calls.items()) or 'no call'}"


def watched(work: Callable[[], object]) -> Watched:
    """What `work` does, called twice: once for each instrument. Call it before, as kernels are made at first."""
    places = _places_of(work)
    torch.cuda.synchronize()
    # Without CUDA's activity there would be no calls and no copies.
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        with record_function(_STRETCH):
            work()
        torch.cuda.synchronize()
    calls, pageable = read_events(profiler.events())
    return Watched(places, calls, pageable)


def _places_of(work: Callable[[], object]) -> Counter[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    seen = [warning for warning in caught if _MESSAGE in str(warning.message)]
    return Counter(f"{'/'.join(Path(warning.filename).parts[-2:])}:{warning.lineno}" for warning in seen)


def read_events(events: Iterable[Any]) -> tuple[Counter[str], int]:
    """Of a profile: calls that wait within the stretch, by name, and copies of pageable memory."""
    found = list(events)
    # The range is among the GPU's events, too, as the time of the kernels that were launched in it.
    (stretch,) = (event.time_range for event in found if _is_stretch(event))
    calls = Counter(
        event.name
        for event in found
        if event.name in _WAITING_CALLS and stretch.start <= event.time_range.start <= stretch.end
    )
    return calls, sum(event.name == _PAGEABLE for event in found)


def _is_stretch(event: Any) -> bool:
    return bool(event.name == _STRETCH and event.device_type == DeviceType.CPU)
