"""Where scorers print to changes no reward: a disk without room, a reader that is gone or stands still."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from rewards.printing_scorer import LINE, WAYS
from thorough import one_in, some_of

pytestmark = pytest.mark.timeout(180)

SCRIPT = """
import json, sys
from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.workers.pool import RewardPool

if __name__ == "__main__":
    path, times, *ways = sys.argv[1:]
    config = RewardConfig(kind="printing_scorer:score", workers=2, timeout_seconds=3.0)
    with RewardPool(config) as pool:
        rewards = pool.score((Problem("p-0", "?", (1, 2), "7"), way) for way in ways * int(times))
    with open(path, "w") as file:
        json.dump([(reward.value, reward.error) for reward in rewards], file)
"""


@contextmanager
def full() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@contextmanager
def unread() -> Iterator[int]:
    """A pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@contextmanager
def standing() -> Iterator[int]:
    """A pipe without room, whose reader stands still."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, bytes(4096)):
            pass
    os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


PLACES: dict[str, Callable[[], AbstractContextManager[int]]] = {"full": full, "unread": unread, "standing": standing}


def rewards_of(tmp_path: Path, times: int, *ways: str, **streams: Any) -> list[list[object]]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = tmp_path / "rewards.json"
    places = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, str(script), str(path), str(times), *ways]
    subprocess.run(command, env=environment, check=True, timeout=150, **streams)
    found: list[list[object]] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("stream", some_of(["stdout", "stderr", "both"], ["both"]))
@pytest.mark.parametrize("place", PLACES)
def test_no_way_of_printing_changes_a_reward(tmp_path: Path, place: str, stream: str) -> None:
    names = ["stdout", "stderr"] if stream == "both" else [stream]
    with PLACES[place]() as descriptor:
        others = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
        found = rewards_of(tmp_path, 3, *WAYS, **others | dict.fromkeys(names, descriptor))
    assert found == [[float(len(way)), None] for way in WAYS] * 3


@pytest.mark.parametrize("way", one_in(3, WAYS))
def test_what_is_printed_is_shown(tmp_path: Path, way: str) -> None:
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        assert rewards_of(tmp_path, 1, way, stdout=out.fileno(), stderr=err.fileno()) == [[float(len(way)), None]]
    to_stderr = "stderr" in way or way == "logging"
    shown = (tmp_path / ("err" if to_stderr else "out")).read_bytes()
    expected = {"much": 300_000 * b"x", "no text": b"\xff\x00" * 100}
    assert expected.get(way, LINE.encode()) in shown
    assert (tmp_path / ("out" if to_stderr else "err")).read_bytes() == b""
