"""Servers get the weights bit for bit; one that hangs or dies is left out; and what does not go so is found."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aspo_megatron.rollout.loop_thread import LoopThread
from aspo_megatron.rollout.weight_sync import transports
from benchmarks.gpu_check import weight_sync, weight_sync_servers
from benchmarks.gpu_check.lines import Line, Place, Sheet, Status, read_lines


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    made = LoopThread("test")
    yield made
    made.close()


def place(tmp_path: Path) -> Place:
    return Place(torch.device("cpu"), True, 0, tmp_path, 240.0)


def sheet(tmp_path: Path) -> Sheet:
    return Sheet("weight_sync", tmp_path / "lines", on_gpu=False)


def lines(tmp_path: Path) -> dict[str, Line]:
    return {line.name: line for line in read_lines(tmp_path / "lines")}


def test_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "_LEAVE_SECONDS", 2.0)
    weight_sync.run(sheet(tmp_path), place(tmp_path))
    found = lines(tmp_path)
    assert {line.status for line in found.values()} == {Status.ON_CPU, Status.MEASURED}
    for name in ("one is stopped in the middle", "one is killed in the middle"):
        assert f"{name}: 1 of 2 are served" in found
    for name in ("two servers", "the same, in groups formed anew", "a new one in its place"):
        assert {f"{name}: {what}" for what in ("2 of 2 are served", "speed", "leaving a group")} <= set(found)


def test_other_bytes_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: LoopThread) -> None:
    monkeypatch.setattr(weight_sync_servers, "_MODULE", "tests.gpu_check.broken_receiver")
    with weight_sync_servers.servers(1, place(tmp_path), loop) as (server,):
        weight_sync._Trainer(sheet(tmp_path), place(tmp_path), loop).sync_well("it", [server], 1)
    line = lines(tmp_path)["it: tensors with other bytes"]
    assert (line.status, line.figure) == (Status.FAILED, 1.0)


def test_a_server_that_is_served_in_spite_of_all_fails(tmp_path: Path, loop: LoopThread) -> None:
    """The signal does nothing, so neither is left out."""
    with weight_sync_servers.servers(2, place(tmp_path), loop) as (well, other):
        trainer = weight_sync._Trainer(sheet(tmp_path), place(tmp_path), loop)
        trainer.sync_sick("it", well, other, signal.SIGCONT, 1)
    assert lines(tmp_path)["it: 1 of 2 are served"].status is Status.FAILED


def test_a_receiver_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_sync_servers, "_MODULE", "no_such_module")
    weight_sync.run(sheet(tmp_path), place(tmp_path))
    line = lines(tmp_path)["servers start"]
    assert line.status is Status.FAILED
    assert "no_such_module" in line.note


def test_one_gpu_is_not_enough(tmp_path: Path) -> None:
    one = Place(torch.device("cuda:0"), False, 1, tmp_path, 90.0)
    weight_sync.run(Sheet("weight_sync", tmp_path / "lines", on_gpu=True), one)
    (line,) = read_lines(tmp_path / "lines")
    assert line.status is Status.NOT_DONE
