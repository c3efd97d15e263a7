"""Metrics, evaluations, exports and config.yaml, with a fault at every one of their system calls.

At worst a line says what could not be written. Nothing half-written bears its final name, and the same once more works.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from thorough import one_in

from tiny_models import llama_folder

from .preloaded import Preloaded
from .writing import PARTS, sweep_part

pytestmark = pytest.mark.timeout(300)

KINDS = {
    "full": 1,
    "short": -1,
    "quota": 2,
    "broken": 1,
    "read-only": -1,
    "stale": 1,
    "kill": 1,
    "torn": 1,
}
"""Faults, and how many calls meet each; -1: all from the first on."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("model") / "llama", tied=True)


@pytest.mark.parametrize("kind", one_in(4, KINDS, first=2))
@pytest.mark.parametrize("part", PARTS)
def test_at_every_call(preloaded: Preloaded, model: Path, tmp_path: Path, part: str, kind: str) -> None:
    swept = preloaded.run(sweep_part, part, kind, KINDS[kind], tmp_path, model)
    assert swept.wrong == []
    assert swept.calls >= 3
    assert swept.met >= swept.calls // 3
