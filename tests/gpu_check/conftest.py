"""Processes for sections that compute: on the CPU, and with the stand-in for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from forked import Server
from simulation.processes import processes


@pytest.fixture(scope="session")
def on_cpu() -> Iterator[Callable[..., Any]]:
    """Calls a function in a process that has imported everything."""
    with Server() as server:
        yield server.run


@pytest.fixture(scope="session")
def on_stand_in() -> Iterator[Callable[..., Any]]:
    """Calls a function in a process of its own that has the stand-in."""
    with processes() as server:
        yield server.run
