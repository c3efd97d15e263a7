"""Ranks that all tests of the warm-up share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from distributed import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    with Ranks() as running:
        yield running
