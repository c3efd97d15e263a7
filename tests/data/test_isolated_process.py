"""Work in a process of its own: its results, and each way in which it can fail."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from children import own_children

from aspo_megatron.data import isolated_process
from aspo_megatron.data.isolated_process import Isolated, IsolatedError

pytestmark = pytest.mark.timeout(120)


def test_results_come_in_order_from_one_process_that_remembers() -> None:
    seen: list[int] = []

    def work(part: int) -> tuple[int, int, int]:
        seen.append(part)
        return part * part, sum(seen), os.getpid()

    with Isolated(work) as elsewhere:
        results = [elsewhere(number, 5.0) for number in range(50)]
        assert {result[2] for result in results} == {child.pid for child in own_children()}
    assert [result[:2] for result in results] == [(n * n, n * (n + 1) // 2) for n in range(50)]
    assert seen == []
    assert own_children() == []


def flood(part: object) -> bytes:
    return b"x" * (1 << 42)


def by_and_by(part: object) -> None:
    kept = []
    while True:
        kept.append(bytearray(1 << 24))


class Panic(BaseException):
    """As what Rust raises, it is no Exception."""


def panic(part: object) -> None:
    raise Panic("a \x1b[31m\n  b")


def endless(part: object) -> None:
    while True:
        pass


def waits(part: object) -> None:
    time.sleep(1000)


def killed(part: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leaves(part: object) -> None:
    os._exit(0)


FAILURES: dict[str, tuple[Callable[[object], object], str]] = {
    "an exception": (lambda part: 1 // 0, "ZeroDivisionError: "),
    "without a word": (lambda part: next(iter(())), "StopIteration"),
    "no exception": (panic, "Panic: a \u241b[31m b"),
    "exit": (lambda part: sys.exit(3), "SystemExit: 3"),
    "memory at once": (flood, "MemoryError"),
    "memory by and by": (by_and_by, "MemoryError"),
    "time": (endless, "takes longer than 1 s"),
    "waiting": (waits, "no answer in 0 s"),
    "a crash": (killed, "its process ended by SIGSEGV"),
    "an end": (leaves, "its process ended"),
    "a result that cannot be sent": (lambda part: threading.Lock(), "TypeError: "),
}


@pytest.mark.parametrize("name", FAILURES)
def test_each_way_to_fail_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    work, says = FAILURES[name]
    if name == "waiting":
        monkeypatch.setattr(isolated_process, "_PATIENCE", 0.2)
        monkeypatch.setattr(isolated_process, "_SLOWNESS", 0.0)
    with Isolated(work) as elsewhere, pytest.raises(IsolatedError) as raised:
        elsewhere(None, 30.0 if says == "MemoryError" else 1.0)
    assert str(raised.value).startswith(says)
    assert own_children() == []
    assert capfd.readouterr() == ("", "")


def test_nothing_of_this_process_is_changed_or_run_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CPU)

    class Closing:
        def __del__(self) -> None:
            (tmp_path / f"closed-{os.getpid()}").touch()

    held = [Closing()]

    def work(part: object) -> int:
        os.write(1, b"seen")
        return resource.getrlimit(resource.RLIMIT_CORE)[0]

    with Isolated(work) as elsewhere:
        assert elsewhere(None, 5.0) == 0
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert limits == (resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CPU))
    held.clear()
    assert [path.name for path in tmp_path.iterdir()] == [f"closed-{os.getpid()}"]


def test_no_room_for_a_process_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", full)
    with pytest.raises(IsolatedError, match="no process can be started: Resource temporarily unavailable"):
        Isolated(flood)


def interrupts(part: object) -> None:
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(1000)


def test_a_user_who_interrupts_does_not_leave_it_behind() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background are to ignore it
    try:
        with Isolated(interrupts) as elsewhere, pytest.raises(KeyboardInterrupt):
            elsewhere(None, 60.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert own_children() == []


MEANWHILE = """
import os, signal, sys, time, types
from aspo_megatron.data import isolated_process
from aspo_megatron.launch.stop import ENDING, ended_by_signals

number = int(sys.argv[1])

def ended(part=None):
    os.kill(os.getpid(), number)

if sys.argv[2] == "before its work":
    isolated_process.gc = types.SimpleNamespace(disable=ended)
with ended_by_signals(ENDING, well=(signal.SIGTERM, signal.SIGUSR1)):
    try:
        with isolated_process.Isolated(ended) as elsewhere:
            elsewhere(None, 5.0)
    except isolated_process.IsolatedError as error:
        print(error)
    time.sleep(0.2)
print("goes on", signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


@pytest.mark.parametrize("when", ["before its work", "at its work"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_that_ends_it_ends_nothing_else(number: signal.Signals, when: str) -> None:
    """The command that reads is ended by the thread that is told of signals, through a pipe that both have."""
    done = subprocess.run(
        [sys.executable, "-c", MEANWHILE, str(int(number)), when],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert done.stdout == f"its process ended by {number.name}, perhaps for want of memory\ngoes on set()\n"
