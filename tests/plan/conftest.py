"""Ranks for measurements; the benchmarks are imported from the root of the repository."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Server

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config.json of each family."""
    from benchmarks.plan_memory import make_models

    folder = tmp_path_factory.mktemp("plan-models")
    make_models(folder)
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A process with megatron-core in it, that forks ranks off."""
    with Server() as running:
        yield running
