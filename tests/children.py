"""Processes that were forked from this one, among other children of tests that came before."""

from __future__ import annotations

import psutil


def own_children() -> list[psutil.Process]:
    """Those that still have this process's command line, and those that nobody has waited for."""
    this = psutil.Process()
    return [child for child in this.children() if _command(child) in ([], this.cmdline())]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.ZombieProcess:
        return []
