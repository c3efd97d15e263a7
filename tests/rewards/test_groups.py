"""A scorer that signals its process group ends itself, and nothing else of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rewards.signalling_scorer import WAYS
from thorough import one_in, some_of

pytestmark = pytest.mark.timeout(180)

SCRIPT = """
import json, sys
from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.workers.pool import RewardPool

if __name__ == "__main__":
    config = RewardConfig(kind="signalling_scorer:score", workers=2, timeout_seconds=60.0)
    with RewardPool(config) as pool:
        rewards = pool.score((Problem("p-0", "?", (1, 2), "7"), way) for way in sys.argv[2:])
    with open(sys.argv[1], "w") as file:
        json.dump([(reward.value, reward.error) for reward in rewards], file)
"""


@pytest.mark.parametrize("name", some_of(["SIGKILL", "SIGTERM", "SIGHUP"], ["SIGKILL"]))
@pytest.mark.parametrize("way", one_in(2, WAYS))
def test_a_scorer_that_signals_its_group_costs_its_response_only(tmp_path: Path, way: str, name: str) -> None:
    script, path = tmp_path / "script.py", tmp_path / "rewards.json"
    script.write_text(SCRIPT)
    places = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    command = [sys.executable, str(script), str(path), "before", f"{way}: {name}", "after it"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    subprocess.run(command, env=environment, check=True, timeout=150, start_new_session=True)
    before, ended, after = json.loads(path.read_text())
    assert before == [6.0, None]
    assert ended == [0.0, f"the scorer crashed ({name}) (3 tries)"]
    assert after == [8.0, None]
