"""Waiting for what worker processes are to do."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(happens: Callable[[], object]) -> None:
    latest = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < latest, "waited in vain"
        time.sleep(0.005)
