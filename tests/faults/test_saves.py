"""A save that meets a fault at any of its system calls: the run continues with a warning, and no good state is lost.

Each test takes every `EVERY`-th call; 1 takes all of them, in a quarter of an hour.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from thorough import some_of

from tiny_models import llama_folder

from .preloaded import Preloaded
from .saving import settings_of, sweep, sweep_kills

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

EVERY = 29
OF_ANOTHER = 4
"""As `EVERY`, of a rank that does not lead: it makes a fifth of the calls."""
FOR_GOOD = -1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for a rank's file to be written in several parts."""
    return llama_folder(tmp_path_factory.mktemp("model") / "llama", tied=True, vocab_size=3000)


FAULTS = [
    ("full", 1, 1, 0, True),
    ("full", 3, 2, 0, True),
    ("full", 1, 2, 1, True),
    ("full", FOR_GOOD, 2, 1, False),
    ("full", FOR_GOOD, 1, 0, True),
    ("short", 1, 1, 0, True),
    ("short", FOR_GOOD, 2, 1, True),
    ("quota", 2, 1, 0, True),
    ("broken", 1, 2, 1, True),
    ("read-only", FOR_GOOD, 1, 0, True),
    ("stale", 1, 1, 0, False),
]


@pytest.mark.parametrize(("kind", "times", "ranks", "victim", "background"), some_of(FAULTS, FAULTS[2:3]))
def test_a_fault_of_the_disk(
    preloaded: Preloaded, model: Path, tmp_path: Path, kind: str, times: int, ranks: int, victim: int, background: bool
) -> None:
    settings = settings_of(tmp_path, model, ranks, background=background)
    every = OF_ANOTHER if victim else EVERY
    swept = preloaded.run(sweep, settings, ranks, victim, kind, times, every, tmp_path / "told")
    assert swept.wrong == []
    assert swept.calls > 10
    assert swept.met >= swept.calls // every * 2 // 3


KILLS = [("kill", 1, 0, True), ("kill", 2, 1, True), ("kill", 2, 0, False), ("torn", 2, 0, True)]


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "ranks", "victim", "background"), KILLS)
def test_a_kill(
    preloaded: Preloaded, model: Path, tmp_path: Path, kind: str, ranks: int, victim: int, background: bool
) -> None:
    settings = settings_of(tmp_path, model, ranks, background=background)
    every = OF_ANOTHER if victim else EVERY
    swept = preloaded.run(sweep_kills, settings, ranks, victim, kind, every)
    assert swept.wrong == []
    assert swept.met >= swept.calls // every
