"""The problems that the command has read and checked, on their way to its ranks: nobody reads them again."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from aspo_megatron.data.store import ProblemStore, read_stores
from aspo_megatron.metrics.progress import progress_display

_SECONDS_BETWEEN_LINES = 5.0


@contextlib.contextmanager
def handed_over(*stores: ProblemStore) -> Iterator[Path | None]:
    """A file in memory with these stores, for `taken_over` in a process of this machine, as long as this lasts.

    None where there is no memory for it.
    """
    descriptor = _written(stores)
    del stores  # whoever gives them up has no more of them, however long this lasts
    try:
        yield None if descriptor is None else Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _written(stores: Iterable[ProblemStore]) -> int | None:
    try:
        descriptor = os.memfd_create("problems", os.MFD_CLOEXEC)
    except OSError:
        return None
    try:
        with open(descriptor, "wb", closefd=False) as file:
            for store in stores:
                store.write(file)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def taken_over(path: Path) -> tuple[ProblemStore, ProblemStore] | None:
    """The two stores of `handed_over`; None if this process may not look at them."""
    try:
        first, second = read_stores(path, 2)
    except OSError:
        return None
    return first, second


def reading_shown(steps: int) -> Callable[[str], None]:
    """What shows how far problems are read, in the display of a run of so many steps: a line every few seconds."""
    display = progress_display(steps, leader=True)
    shown: float | None = None  # what comes before is importing

    def tell(text: str) -> None:
        nonlocal shown
        now = time.monotonic()
        if shown is None:
            shown = now
        elif now - shown > _SECONDS_BETWEEN_LINES:
            shown = now
            display.message(text)

    return tell
