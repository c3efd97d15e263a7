"""Streams and events of the stand-in: which work comes after which (`timeline.py`), and what the host waits for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from aspo_megatron.simulation.device.timeline import Clock

if TYPE_CHECKING:
    from aspo_megatron.simulation.device.operations import StandIn


class Event:
    """In place of `torch.cuda.Event`."""

    stand_in: ClassVar[StandIn]

    def __init__(self, *_: Any, **__: Any) -> None:
        self._at = Clock()

    def record(self, stream: Stream | None = None) -> None:
        """Mark what the stream has been given to do so far."""
        self._at = (self.stand_in.timeline.current if stream is None else stream.clock).copy()

    def wait(self, stream: Stream | None = None) -> None:
        """What the stream does next comes after the event; the host does not wait."""
        (self.stand_in.timeline.current if stream is None else stream.clock).merge(self._at)

    def query(self) -> bool:
        """Nothing takes time, but nobody knows before a wait."""
        return True

    def synchronize(self) -> None:
        """The host waits."""
        self.stand_in.ledger.wait("event")
        self.stand_in.timeline.host.merge(self._at)


class Stream:
    """In place of `torch.cuda.Stream`. `clock`: that of the main stream for the one that is there from the start."""

    stand_in: ClassVar[StandIn]
    event: ClassVar[type[Event]]
    cuda_stream = 0

    def __init__(self, *_: Any, clock: Clock | None = None, **__: Any) -> None:
        self.clock = clock or self.stand_in.timeline.stream()

    def wait_stream(self, stream: Stream) -> None:
        """What this stream does next comes after all that the other was given; the host does not wait."""
        self.clock.merge(stream.clock)

    def wait_event(self, event: Event) -> None:
        """What this stream does next comes after the event; the host does not wait."""
        event.wait(self)

    def record_event(self, event: Event | None = None) -> Event:
        """An event of this stream."""
        event = event or self.event()
        event.record(self)
        return event

    def query(self) -> bool:
        """Nothing takes time, but nobody knows before a wait."""
        return True

    def synchronize(self) -> None:
        """The host waits."""
        self.stand_in.ledger.wait("stream")
        self.stand_in.timeline.host.merge(self.clock)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.clock is self.clock

    def __hash__(self) -> int:
        return id(self.clock)


def stream_classes(stand_in: StandIn) -> tuple[type[Event], type[Stream]]:
    """`Event` and `Stream` of a stand-in."""
    event = type("Event", (Event,), {"stand_in": stand_in})
    return event, type("Stream", (Stream,), {"stand_in": stand_in, "event": event})


def on_stream_of(stand_in: StandIn) -> Any:
    """In place of `torch.cuda.stream`."""

    @contextmanager
    def on_stream(stream: Stream | None) -> Iterator[None]:
        with stand_in.timeline.on(stand_in.timeline.current if stream is None else stream.clock):
            yield

    return on_stream
