"""What happened on the stand-in: waits of the host, copies, operations, collectives, memory."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import UntypedStorage

from aspo_megatron.simulation.device.storages import Storages

_GRANULE = 512
"""PyTorch's CUDA allocator hands out multiples of it."""
_PLACES = 3
"""Lines of the program that a place names, the innermost first."""


@dataclass
class Figures:
    """Counts of a stretch of work.

    Attributes:
        waits: places where the host waited for the device, and how often.
        copies: places where pageable memory was copied to the device, which the host waits for too.
        calls: operations by name.
        traffic: bytes that this rank put into collectives, by name.
        held_bytes: memory of the tensors that existed at its end.
        peak_bytes: the most that it was.
    """

    waits: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    traffic: Counter[str] = field(default_factory=Counter)
    held_bytes: int = 0
    peak_bytes: int = 0

    def add(self, later: Figures) -> None:
        """Go on with a later stretch: counts add up, the larger peak counts."""
        for mine, more in zip(self._counters(), later._counters(), strict=True):
            mine.update(more)
        self.held_bytes, self.peak_bytes = later.held_bytes, max(self.peak_bytes, later.peak_bytes)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {key: dict(value) if isinstance(value, Counter) else value for key, value in vars(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Figures:
        """Of what `as_json` gave."""
        counters = {name: Counter(data[name]) for name in ("waits", "copies", "calls", "traffic")}
        return cls(**{**data, **counters})

    def _counters(self) -> tuple[Counter[str], ...]:
        return self.waits, self.copies, self.calls, self.traffic


class Ledger:
    """What has happened since it was made or cleared: as `Figures`."""

    def __init__(self, storages: Storages) -> None:
        self._storages = storages
        self._sizes: dict[int, int] = {}
        self._held = self._peak = self._inside = 0
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.traffic: Counter[str] = Counter()
        storages.tell(self._gone)

    @property
    def held_bytes(self) -> int:
        """Memory of the tensors that exist."""
        self._storages.settle()
        return self._held

    @property
    def peak_bytes(self) -> int:
        """The most that it was."""
        return self._peak

    def clear(self) -> None:
        """Begin to count anew; what is held stays held."""
        for counter in self._counters():
            counter.clear()
        self._peak = self.held_bytes

    def figures(self) -> Figures:
        """A copy of what it has now."""
        waits, copies, calls, traffic = (Counter(counter) for counter in self._counters())
        return Figures(waits, copies, calls, traffic, self.held_bytes, self.peak_bytes)

    @contextmanager
    def only(self) -> Iterator[Figures]:
        """Figures that, when the block ends, are those of the block; this ledger goes on with them too."""
        before = [Counter(counter) for counter in self._counters()]
        peak, self._peak = self._peak, self.held_bytes
        part = Figures()
        try:
            yield part
        finally:
            part.waits, part.copies, part.calls, part.traffic = (
                since - old for since, old in zip(self._counters(), before, strict=True)
            )
            part.held_bytes, part.peak_bytes = self.held_bytes, self.peak_bytes
            self._peak = max(peak, self._peak)

    def wait(self, what: str) -> None:
        """The host waits for the device."""
        self.waits[f"{what} {place()}"] += 1

    def copy(self, what: str) -> None:
        """Pageable memory goes to the device."""
        self.copies[f"{what} {place()}"] += 1

    def holds(self, storage: UntypedStorage) -> bool:
        """Whether a storage is one of the device."""
        self._storages.settle()
        return storage._cdata in self._sizes

    def hold(self, storage: UntypedStorage) -> None:
        """A storage on the device is there, and as large as it is: an operation may have made it larger."""
        self._storages.follow(storage)
        size = -(-storage.nbytes() // _GRANULE) * _GRANULE
        self._held += size - self._sizes.get(storage._cdata, 0)
        self._sizes[storage._cdata] = size
        if not self._inside:
            self._peak = max(self._peak, self._held)

    @contextmanager
    def one_kernel(self) -> Iterator[None]:
        """Operations of the block are one: what they make for each other alone takes no memory."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:  # a kernel inside of a kernel is a part of it
                self._peak = max(self._peak, self.held_bytes)

    def _gone(self, key: int) -> None:
        self._held -= self._sizes.pop(key, 0)

    def _counters(self) -> tuple[Counter[str], ...]:
        return self.waits, self.copies, self.calls, self.traffic


def place() -> str:
    """Where in this program and in megatron-core the present line is: `file:line < caller < its caller`."""
    found: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and len(found) < _PLACES:
        folder, inside, name = frame.f_code.co_filename.rpartition("site-packages/")
        ours = not inside and not folder and "/simulation/" not in name
        if (ours and ("/aspo_megatron/" in name or "/tests/" in name)) or (inside and name.startswith("megatron/")):
            found.append(f"{name.rpartition('aspo_megatron/')[2]}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(found)
