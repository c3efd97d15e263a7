"""What the tests of worker processes share."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import resource_tracker

import pytest
from rewards.patience import reward_workers


def _open_files() -> set[tuple[str, str]]:
    """The numbers of this process's open files, and what they are of."""
    gc.collect()  # of earlier tests, so that the numbers below theirs are free
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the folder itself, which was open while it was listed
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """After the test there are no workers, threads or open files that were not there before."""
    resource_tracker.ensure_running()  # as it would with the first worker, and stay
    quits = signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # ignored where a shell has tests in the background
    files, threads = _open_files(), set(threading.enumerate())
    yield
    signal.signal(signal.SIGQUIT, quits)
    assert not reward_workers()
    assert _open_files() <= files
    assert set(threading.enumerate()) <= threads
