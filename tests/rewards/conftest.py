"""What the tests of worker processes share."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

import pytest
from patience import reward_workers


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """After the test there are no workers, threads or descriptors that were not there before."""
    resource_tracker.ensure_running()  # as it would with the first worker, and stay
    quits = signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # ignored where a shell has tests in the background
    before = sorted(os.listdir("/proc/self/fd")), threading.active_count()
    yield
    signal.signal(signal.SIGQUIT, quits)
    assert not reward_workers()
    assert (sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before
