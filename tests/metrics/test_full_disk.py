"""A disk that is full for a moment, or for good, while a run records."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from thorough import some_of

from aspo_megatron.errors import UserError
from aspo_megatron.metrics import record
from aspo_megatron.metrics.record import Recorder, read_metrics
from aspo_megatron.metrics.wandb_run import WandbRun

CODES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_pipe_that_nobody_reads_keeps_nobody_waiting(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: cannot be written: No such device"):
        record_one(tmp_path)


def record_one(folder: Path) -> None:
    with Recorder(folder, False) as to:
        to.log(1, {"loss": 1.0})
        to.log_samples(1, [{"text": "a"}])


class Disk:
    """Stands before `os.write` and `os.replace`: full from the n-th call on, after so many bytes more, until `free`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, full_at: int, takes: int = 0, code: int = errno.ENOSPC) -> None:
        self.full_at, self._takes, self._code = full_at, takes, code
        self.calls = 0
        self._write, self._replace = os.write, os.replace
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "replace", self.replace)

    def free(self) -> None:
        self.full_at = sys.maxsize

    def write(self, descriptor: int, data: bytes) -> int:
        self.calls += 1
        if self.calls < self.full_at:
            return self._write(descriptor, data)
        if self.calls == self.full_at and self._takes:
            return self._write(descriptor, bytes(data[: self._takes]))
        raise OSError(self._code, os.strerror(self._code))

    def replace(self, source: Path, target: Path) -> None:
        if self.full_at != sys.maxsize and self.calls >= self.full_at:
            raise OSError(self._code, os.strerror(self._code))
        self._replace(source, target)


def step(recorder: Recorder, number: int) -> None:
    recorder.log(number, {"a": number / 4})
    recorder.log_samples(number, [{"response": f"é {number}"}, {"response": "x"}])
    recorder.write_file(recorder._metrics.path.parent / "eval" / f"step-{number:06d}.jsonl", b"{}\n" * number)


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    with Recorder(tmp_path / "undisturbed", False) as recorder:
        for number in range(1, 9):
            step(recorder, number)
    return contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("takes", some_of([0, 1, 7, 20], [0, 7]))
@pytest.mark.parametrize("full_at", [1, 2, 3, 6])
@pytest.mark.parametrize("free_after", [3, 5])
def test_a_disk_that_is_full_for_a_moment_costs_two_lines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Mapping[str, bytes],
    code: int,
    takes: int,
    full_at: int,
    free_after: int,
) -> None:
    disk, told = Disk(monkeypatch, full_at, takes, code), cast(list[str], [])
    with Recorder(tmp_path / "run", False, warn=told.append) as recorder:
        for number in range(1, 9):
            if number == free_after + 1:
                with pytest.raises(UserError, match=os.strerror(code)):
                    recorder.flush()
                disk.free()
                recorder.flush()
            step(recorder, number)
            for name in ("metrics.jsonl", "samples.jsonl"):
                if (tmp_path / "run" / name).exists():
                    for line in (tmp_path / "run" / name).read_bytes().split(b"\n")[:-1]:
                        json.loads(line)
    assert contents(tmp_path / "run") == undisturbed
    began, over = told
    assert began.startswith(f"warning: {tmp_path / 'run'}/")
    assert f"cannot be written: {os.strerror(code)}; the run continues" in began
    assert over.startswith("what waited for room is written")


@pytest.mark.parametrize("what", ["metrics", "samples", "file"])
@pytest.mark.parametrize("code", CODES)
def test_too_much_that_waits_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: int
) -> None:
    monkeypatch.setattr(record, "MOST_WAITING", 2000)
    told: list[str] = []
    recorder = Recorder(tmp_path, False, warn=told.append)
    recorder.log(0, {"a": 0})
    Disk(monkeypatch, 0, code=code)
    once: dict[str, Callable[[int], None]] = {
        "metrics": lambda number: recorder.log(number, {"a" * 90: 1.0}),
        "samples": lambda number: recorder.log_samples(number, [{"response": "x" * 80}]),
        "file": lambda number: recorder.write_file(tmp_path / "eval" / f"step-{number}.jsonl", b"x" * 100),
    }

    def log_on() -> None:
        for number in range(1, 100):
            once[what](number)

    with pytest.raises(
        UserError, match=rf"{os.strerror(code)}; 0 MiB wait in memory to be written, .*the same command resumes"
    ):
        log_on()
    assert len(told) == 1
    assert recorder._metrics.waiting + recorder._samples.waiting + sum(map(len, recorder._files.values())) < 2500


@pytest.mark.parametrize("code", CODES)
def test_what_is_never_written_ends_the_run_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    told: list[str] = []
    recorder = Recorder(tmp_path, False, warn=told.append)
    step(recorder, 1)
    recorder.flush()
    Disk(monkeypatch, 1, takes=5, code=code)
    for number in (2, 3):
        step(recorder, number)
    with pytest.raises(UserError, match=f"metrics.jsonl: cannot be written: {os.strerror(code)}"):
        recorder.flush()
    with pytest.raises(UserError, match="cannot be written"):
        recorder.__exit__(None, None, None)
    monkeypatch.undo()
    with Recorder(tmp_path, False, 1, warn=told.append) as again:
        for number in (2, 3):
            step(again, number)
    assert [values["step"] for values in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert len(told) == 1


def test_an_error_on_its_way_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        with Recorder(tmp_path, False, warn=lambda text: None) as recorder:
            Disk(monkeypatch, 1)
            step(recorder, 1)
            raise UserError("the loss is nan")

    with pytest.raises(UserError, match="the loss is nan"):
        fail()


@pytest.mark.parametrize("code", CODES)
def test_a_disk_that_does_not_sync_is_no_ground_for_a_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    recorder = Recorder(tmp_path, False)
    step(recorder, 1)

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=f"metrics.jsonl: cannot be written: {os.strerror(code)}"):
        recorder.flush()
    monkeypatch.undo()
    recorder.flush()
    recorder.__exit__(None, None, None)


SCRIPT = """
import resource, sys
from pathlib import Path
from aspo_megatron.metrics.record import Recorder
for more in sys.argv[2:]:
    run, told = Path(sys.argv[1], more), []
    with Recorder(run, True, warn=told.append) as recorder:
        for step in range(1, 6):
            recorder.log(step, {name: step / 4 for name in "abc"})
        recorder.flush()
        size = max(path.stat().st_size for path in (run / "tensorboard").iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(more), resource.RLIM_INFINITY))
        for step in range(6, 9):
            recorder.log(step, {name: step / 4 for name in "abc"})
            recorder.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        recorder.log(9, {"a": 0})
    print(*told, sep="\\n")
"""


def test_tensorboard_is_left_out_when_it_cannot_be_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    room = ("0", "1", "7", "12", "30", "50", "70", "90", "110", "130")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), *room]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    line = "warning: {}/tensorboard: cannot be written: File too large; the run continues without it"
    assert done.stdout.splitlines() == [line.format(tmp_path / more) for more in room]
    for more in room:
        assert len(read_metrics(tmp_path / more / "metrics.jsonl")) == 9
        events = EventAccumulator(str(tmp_path / more / "tensorboard"))
        events.Reload()
        steps = [event.step for event in events.Scalars("a")]
        assert steps in ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
        assert steps == [event.step for event in events.Scalars("c")]  # whole steps alone


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("no answer"), ValueError("x")])
@pytest.mark.parametrize("call", ["log", "close"])
def test_wandb_is_left_out_when_it_fails(tmp_path: Path, error: Exception, call: str) -> None:
    class Service:
        def log(self, step: int, values: Mapping[str, float]) -> None:
            self.fail("log")

        def close(self) -> None:
            self.fail("close")

        def fail(self, name: str) -> None:
            if name == call:
                raise error

    told: list[str] = []
    with Recorder(tmp_path, False, wandb=cast(WandbRun, cast(Any, Service())), warn=told.append) as recorder:
        for number in (1, 2, 3):
            recorder.log(number, {"a": 1})
    assert told == [f"warning: wandb: {type(error).__name__}: {error}; the run continues without it"]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3
