"""Waiting for what worker processes are to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing import active_children
from multiprocessing.process import BaseProcess


def until(happens: Callable[[], object]) -> None:
    latest = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < latest, "waited in vain"
        time.sleep(0.005)


def reward_workers() -> list[BaseProcess]:
    """Those of the pools of this process, which may have other children: the ranks of other tests."""
    return [child for child in active_children() if child.name == "reward worker"]
