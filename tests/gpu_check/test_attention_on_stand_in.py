"""That sections on numbers ask nothing of a GPU at full size that its kernels refuse, as the stand-in knows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Server
from simulation.processes import processes
from thorough import some_of

from .full_size import names_of


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with processes() as started:
        yield started


PARTS = [
    ("blocks", 12 * 5),
    ("fp32", 2 * 4),
    ("layer", 3 * 2 * 5),
    ("varlen", 3 * 7),
    ("times", 2 * (1 + 2 * 5)),
    ("ceilings", 4 + 4 * 8 + 2 * 9),
    ("numbers", 2 * 8),
    ("heads", 3 * (6 + 1) + 4 + 1),
    ("experts", 2 * (5 + 1 + 1)),
    ("log-prob times", 1 + 2 * 6),
]


@pytest.mark.parametrize(("part", "lines"), some_of(PARTS, PARTS[2:4]))
def test_full_size(part: str, lines: int, server: Server, tmp_path: Path) -> None:
    names = server.run(names_of, part, tmp_path)
    assert len(names) == lines
    assert len(set(names)) == lines
