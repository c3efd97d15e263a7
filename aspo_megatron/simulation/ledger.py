"""What happened on the stand-in: waits of the host, copies, operations, collectives, memory."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, UntypedStorage

_GRANULE = 512
"""PyTorch's CUDA allocator hands out multiples of it."""
_PLACES = 3
"""Lines of the program that a place names, the innermost first."""


@dataclass
class Ledger:
    """Counts since it was made or cleared.

    Attributes:
        waits: places where the host waited for the device, and how often.
        copies: places where pageable memory was copied to the device, which the host waits for too.
        calls: operations by name.
        traffic: bytes that this rank put into collectives, by name.
        held_bytes: memory of the tensors that exist.
        peak_bytes: the most that it was.
    """

    waits: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    traffic: Counter[str] = field(default_factory=Counter)
    held_bytes: int = 0
    peak_bytes: int = 0
    _sizes: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def clear(self) -> None:
        """Begin to count anew; what is held stays held."""
        for counter in (self.waits, self.copies, self.calls, self.traffic):
            counter.clear()
        self.peak_bytes = self.held_bytes

    @contextmanager
    def only(self) -> Iterator[Ledger]:
        """A ledger that has, when the block ends, the counts of the block; this one goes on with them too."""
        before = [Counter(counter) for counter in self._counters()]
        peak, self.peak_bytes = self.peak_bytes, self.held_bytes
        part = Ledger()
        try:
            yield part
        finally:
            for own, since, old in zip(part._counters(), self._counters(), before, strict=True):
                own.update(since - old)
            part.held_bytes, part.peak_bytes = self.held_bytes, self.peak_bytes
            self.peak_bytes = max(peak, self.peak_bytes)

    def wait(self, what: str) -> None:
        """The host waits for the device."""
        self.waits[f"{what} {place()}"] += 1

    def copy(self, what: str) -> None:
        """Pageable memory goes to the device."""
        self.copies[f"{what} {place()}"] += 1

    def hold(self, tensor: Tensor) -> None:
        """A tensor on the device exists, until its storage is gone."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            weakref.finalize(storage, self._change, key, None)
            self._change(key, storage.nbytes())

    def resized(self, storage: UntypedStorage) -> None:
        """A storage of the device has another size now."""
        if storage._cdata in self._sizes:
            self._change(storage._cdata, storage.nbytes())

    def _change(self, key: int, nbytes: int | None) -> None:
        rounded = -(-(nbytes or 0) // _GRANULE) * _GRANULE
        with self._lock:
            self.held_bytes += rounded - self._sizes.pop(key, 0)
            if nbytes is not None:
                self._sizes[key] = rounded
            self.peak_bytes = max(self.peak_bytes, self.held_bytes)

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
