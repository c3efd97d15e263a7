"""Which work on the device comes after which: streams run beside each other unless one waits for the other.

A stream counts its work, and knows how far it has waited for the others. So it shows whether an operation may find what
another stream has not made yet, or overwrites what another stream still copies, and whether the host looks at a copy
that is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from aspo_megatron.simulation.device.devices import on_gpu
from aspo_megatron.simulation.device.storages import Storages, key_of

_OF_DEVICE = (
    "another stream may not have made its input yet; wait_stream or wait_event",
    "overwrites what another stream may still copy; wait_stream or wait_event",
)
_OF_HOST = (
    "looks at memory that a copy from the device may not have filled yet",
    "overwrites memory from which a copy to the device may still be read",
)
"""What is wrong where an operation comes too early, and where it comes too late."""


class OrderError(Exception):
    """Something is used, overwritten or freed before other work with it is done."""


@dataclass(eq=False)
class Clock:
    """A stream's count of its work, and of others' work that comes before; or what the host has waited for."""

    count: int = 0
    seen: dict[int, int] = field(default_factory=dict)

    def merge(self, other: Clock) -> None:
        """All that `other` has done and seen comes before what this does next."""
        for key, count in {**other.seen, id(other): other.count}.items():
            self.seen[key] = max(self.seen.get(key, 0), count)

    def follows(self, work: tuple[Clock, int]) -> bool:
        """Whether that work is done before what this does next."""
        clock, count = work
        return clock is self or self.seen.get(id(clock), 0) >= count

    def copy(self) -> Clock:
        """As it is now, for an event."""
        copied = Clock(self.count, dict(self.seen))
        copied.seen[id(self)] = self.count
        return copied


_Work = tuple[Clock, int]


class _LastWork:
    """The last work with each part of memory.

    On the device a storage is one part. On the host many tensors share a storage, and each may be copied by itself.
    """

    def __init__(self) -> None:
        self._works: dict[int, dict[tuple[int, int], _Work]] = {}

    def note(self, tensor: Tensor, work: _Work) -> None:
        """This is the last with the memory of `tensor`."""
        self._works.setdefault(key_of(tensor), {})[_span(tensor)] = work

    def of(self, tensor: Tensor) -> Iterator[_Work]:
        """The last works with any of the memory of `tensor`."""
        start, stop = _span(tensor)
        for (first, end), work in self._works.get(key_of(tensor), {}).items():
            if first < stop and start < end:
                yield work

    def forget(self, key: int) -> list[_Work]:
        """A storage is gone: the last works with it."""
        return list(self._works.pop(key, {}).values())


def _span(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its storage that it may touch."""
    if on_gpu(tensor):
        return 0, sys.maxsize
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset()) * tensor.itemsize
    return start, start + (int(last) + 1) * tensor.itemsize if tensor.numel() else start


class Timeline:
    """The order of work on one device. Storages are named by their address."""

    def __init__(self, storages: Storages) -> None:
        storages.tell(self._gone)
        self._clocks: list[Clock] = []
        self.main, self.host = self.stream(), Clock()
        self.current = self.main
        self._made, self._read = _LastWork(), _LastWork()
        self._kept: set[tuple[int, int]] = set()
        self._of_host: set[int] = set()
        """Page-locked memory that the device has copied from or to."""

    def stream(self) -> Clock:
        """The clock of a new stream."""
        self._clocks.append(Clock())
        return self._clocks[-1]

    def synchronize(self) -> None:
        """The host has waited for all streams."""
        for clock in self._clocks:
            self.host.merge(clock)

    @contextmanager
    def on(self, clock: Clock) -> Iterator[None]:
        """Work of the block belongs to this stream."""
        before, self.current = self.current, clock
        try:
            yield
        finally:
            self.current = before

    def work(self, name: str, reads: list[Tensor], writes: list[Tensor], *, copies: bool) -> None:
        """An operation of the current stream. `copies`: between host and device, which the host does not wait for.

        Raises:
            OrderError: it may run before what it needs, or while another stream copies what it overwrites.
        """
        self.current.count += 1
        self._of_host |= {key_of(tensor) for tensor in (*reads, *writes) if not on_gpu(tensor)}
        self._check(self.current, name, reads, writes, _OF_DEVICE)
        for tensor in writes:
            self._made.note(tensor, (self.current, self.current.count))
        if copies:
            for tensor in reads:
                self._read.note(tensor, (self.current, self.current.count))

    def touch(self, name: str, reads: list[Tensor], writes: list[Tensor]) -> None:
        """An operation of the host.

        Raises:
            OrderError: it looks at a copy that may not be there yet, or overwrites one that is still read.
        """
        if self._of_host:
            self._check(self.host, name, reads, writes, _OF_HOST)

    def _check(
        self, clock: Clock, name: str, reads: list[Tensor], writes: list[Tensor], faults: tuple[str, str]
    ) -> None:
        """Hold what `clock` does next against what was made and is being read."""
        for tensor in (*reads, *writes):
            if not all(map(clock.follows, self._made.of(tensor))):
                raise OrderError(f"{name}: {faults[0]}")
        for tensor in writes:
            if not all(map(clock.follows, self._read.of(tensor))):
                raise OrderError(f"{name}: {faults[1]}")

    def keep(self, tensor: Tensor, clock: Clock) -> None:
        """`Tensor.record_stream`: its memory is not given to anybody before the stream is done with it."""
        self._kept.add((key_of(tensor), id(clock)))

    def _gone(self, key: int) -> None:
        reads = self._read.forget(key)
        self._made.forget(key)
        kept = {entry for entry in self._kept if entry[0] == key}
        self._kept -= kept
        if key in self._of_host:  # PyTorch keeps page-locked memory until copies from and to it are done
            self._of_host.discard(key)
        elif any(not self.main.follows(read) and (key, id(read[0])) not in kept for read in reads):
            raise OrderError("memory was freed from which another stream may still copy; wait_event or record_stream")
