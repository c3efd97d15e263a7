"""Processes that were forked from this one, among other children of tests that came before; and the end of any."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil

_PATIENCE_SECONDS = 60.0


def own_children() -> list[psutil.Process]:
    """Those that still have this process's command line, and those that nobody has waited for."""
    this = psutil.Process()
    return [child for child in this.children() if _command(child) in ([], this.cmdline())]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.ZombieProcess:
        return []


def are_gone(pids: Iterable[int]) -> bool:
    """Whether processes end soon that were killed: on a busy machine one that was is there for a while."""
    latest = time.monotonic() + _PATIENCE_SECONDS
    left = list(pids)
    while left and time.monotonic() < latest:
        left = [pid for pid in left if _is_alive(pid)]
        time.sleep(0.01)
    return not left


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
