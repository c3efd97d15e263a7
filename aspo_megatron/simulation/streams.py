"""Streams and events of the stand-in: nothing runs, so nothing has to be waited for; that the host does is noted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from aspo_megatron.simulation.ledger import Ledger


class Event:
    """In place of `torch.cuda.Event`."""

    ledger: ClassVar[Ledger]

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, stream: Any = None) -> None:
        """Nothing to mark."""

    def wait(self, stream: Any = None) -> None:
        """A stream waits, the host does not."""

    def query(self) -> bool:
        """All is done at once."""
        return True

    def synchronize(self) -> None:
        """The host waits."""
        self.ledger.wait("event")

    def elapsed_time(self, end: Event) -> float:
        """Nothing takes time."""
        return 0.0


class Stream:
    """In place of `torch.cuda.Stream`."""

    ledger: ClassVar[Ledger]
    event: ClassVar[type[Event]]
    cuda_stream = 0

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, stream: Any) -> None:
        """A stream waits, the host does not."""

    def wait_event(self, event: Any) -> None:
        """A stream waits, the host does not."""

    def record_event(self, event: Event | None = None) -> Event:
        """An event of this stream."""
        return event or self.event()

    def query(self) -> bool:
        """All is done at once."""
        return True

    def synchronize(self) -> None:
        """The host waits."""
        self.ledger.wait("stream")


def stream_classes(ledger: Ledger) -> tuple[type[Event], type[Stream]]:
    """`Event` and `Stream` that note in `ledger` what the host waits for."""
    event = type("Event", (Event,), {"ledger": ledger})
    return event, type("Stream", (Stream,), {"ledger": ledger, "event": event})


@contextmanager
def on_stream(stream: Any) -> Iterator[None]:
    """In place of `torch.cuda.stream`."""
    yield
