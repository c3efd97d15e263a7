"""A run that is started again each time it ends, while faults befall it; what did not hold is noted."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from aspo_megatron.errors import CheckpointError
from benchmarks.soak.faults import FULL, FULL_FOR_GOOD, Fault
from benchmarks.soak.injection import KILL_PARENT, KILLS, environment, started_for
from benchmarks.soak.recipe import leftovers, processes_of, saved_step

_POLL = 0.02
_ENDS_WITHIN = 30.0
"""Seconds in which all processes of a run must be gone after its launcher is."""

_FRUITLESS = 3
"""Ends in a row, without a fault or a step between them, after which the run counts as stuck."""

_NO_FAILURE = (0, 2, 128 + signal.SIGTERM)


def _kills(armed: str | None) -> bool:
    """Whether the fault ends a process by SIGKILL."""
    return armed is not None and armed.split(":")[2] in (*KILLS, KILL_PARENT)


class StuckError(Exception):
    """The run neither ends nor goes on."""


@dataclass
class Soak:
    """One run and what has become of it.

    Args:
        run: its folder.
        recipe: its configuration.
        say: gets a line for each fault and each end.
        patience: seconds without a step after which the run counts as stuck, stops and full disks not counted.
        armed: a fault that the first start has, `RANK:N:KIND:TIMES`, see `injection.environment`.
        log_calls: where the calls that count are noted.
    """

    run: Path
    recipe: Path
    say: Callable[[str], None]
    patience: float = 120.0
    armed: str | None = None
    log_calls: Path | None = None
    wrong: list[str] = field(default_factory=list)
    starts: int = 0

    def __post_init__(self) -> None:
        self._full = self.run.with_name(f"{self.run.name}.full")
        self._log = self.run.with_name(f"{self.run.name}.said")
        self._before = self._log.stat().st_size if self._log.exists() else 0
        self._command: subprocess.Popen[bytes] | None = None
        self._saved = 0
        self._left_by_kill: set[str] = set()
        self._passing: list[tuple[float, Callable[[], None]]] = []
        self._full.unlink(missing_ok=True)

    def play(self, faults: Sequence[Fault], chance: random.Random, deadline: float = float("inf")) -> int:
        """Run to the end; how many faults there was time for."""
        done = 0
        try:
            for fault in faults:
                if time.monotonic() > deadline or not self._reach(-1 if fault.step is None else fault.step):
                    break
                self._make_room()
                self._pause(fault.later)
                self.say(str(fault))
                self._befall(fault, chance)
                done += 1
            self._reach(None)
        finally:
            self._kill_all()
        return done

    @property
    def said(self) -> str:
        """All that the command has printed, in all its starts."""
        return self._log.read_bytes()[self._before :].decode(errors="replace")

    # ---- the run -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        command = [sys.executable, "-m", "aspo_megatron.cli", "train", str(self.recipe), f"output_dir={self.run}"]
        with self._log.open("ab") as log:
            self._mark = log.tell()
            self._command = subprocess.Popen(
                command,
                env={**os.environ, "OMP_NUM_THREADS": "1", **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        self.starts += 1

    def _done_since_start(self) -> int:
        """The last step that the command has shown since it was last started; 0: none."""
        shown = re.findall(rb"^step (\d+)/", self._log.read_bytes()[self._mark :], re.M)
        return int(shown[-1]) if shown else 0

    def _environment(self) -> dict[str, str]:
        return environment(self.run, full=self._full, log=self.log_calls, armed=None if self.starts else self.armed)

    def _reach(self, step: int | None) -> bool:
        """Wait until `step` is done since a start, starting the run as often as it ends; None: until it is done.

        Returns:
            Whether it is still at work: False once it is done.
        """
        last, since, fruitless = -2, time.monotonic(), 0
        while True:
            if self._command is None:
                self._start()
                since = time.monotonic()
            assert self._command is not None
            code = self._command.poll()
            now = self._done_since_start()
            if now != last:
                last, since, fruitless = now, time.monotonic(), 0
            if code is not None:
                self._ended(code, killed=self.starts == 1 and _kills(self.armed))
                if code == 0 and (self.run / "summary.json").exists():
                    return False
                fruitless += 1
                if fruitless == _FRUITLESS:
                    raise StuckError(f"the run ended {_FRUITLESS} times without a step after step {now}")
            elif step is not None and now >= step:
                return True
            elif time.monotonic() - since > self.patience:
                raise StuckError(f"no step for {self.patience:.0f} s after step {now}")
            self._pause(_POLL)

    def _ended(self, code: int, killed: bool = False) -> None:
        """What must hold at an end: short words, all processes gone, a whole state that is none before the last."""
        said = self._log.read_bytes()[self._mark :].decode(errors="replace")
        self._command = None
        self._end_what_passes()
        last = [line for line in said.splitlines() if line.strip()][-1:]
        self.say(f"  ended with {code}{''.join(f': {line[:150]}' for line in last)}")
        if not killed and code not in _NO_FAILURE:
            self._note(f"the run ended with {code}: {' '.join(last)}")
        if "Traceback" in said and not killed:
            self._note(f"a traceback (the run ended with {code}): {' '.join(last)}")
        _, alive = psutil.wait_procs(started_for(self.run), timeout=_ENDS_WITHIN)
        if alive:
            self._note(f"{len(alive)} processes are left {_ENDS_WITHIN:.0f} s after the end")
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self._look_at_states()
        self._look_at_leftovers(killed, code)

    def _look_at_states(self) -> None:
        try:
            saved = saved_step(self.run)
        except (CheckpointError, OSError) as error:
            self._note(f"latest names no whole state: {error}")
            return
        if saved < self._saved:
            self._note(f"the state of step {self._saved} is lost: that of step {saved} is what is left")
        self._saved = max(self._saved, saved)

    def _look_at_leftovers(self, killed: bool, code: int) -> None:
        """What a kill leaves half-written is for the next start, one that comes to a step."""
        left = set(leftovers(self.run))
        if killed:
            self._left_by_kill = left
            return
        if self._done_since_start() > 0:
            self._left_by_kill = set()
        for line in sorted(left - self._left_by_kill)[:1]:
            self._note(f"after an end with {code}: {line}")

    def _note(self, line: str) -> None:
        self.wrong.append(line)
        self.say(f"  WRONG: {line}")

    # ---- faults --------------------------------------------------------------------------------------------------

    def _befall(self, fault: Fault, chance: random.Random) -> None:
        assert self._command is not None
        found = processes_of(self._command.pid)
        everyone = [process for each in found.values() for process in each]
        if fault.what in (FULL, FULL_FOR_GOOD):
            self._full.touch()
            self._passes(fault.seconds, self._make_room)
        elif fault.what == "ask":
            self._command.send_signal(signal.SIGTERM)
            self._wait_for_end("SIGTERM")
        else:
            those = found.get(fault.victim, [])  # none yet, where the run is just starting
            victims = everyone if fault.victim == "all" else those and [chance.choice(those)]
            if fault.what == "stop":
                self._send(victims, signal.SIGSTOP)
                self._passes(fault.seconds, partial(self._send, victims, signal.SIGCONT))
            else:
                self._send(victims, signal.SIGKILL)
                if victims and fault.victim != "worker":
                    self._wait_for_end(f"SIGKILL of {fault.victim}", killed=True)

    def _passes(self, seconds: float | None, end: Callable[[], None]) -> None:
        """Have a fault end after so long, while other faults come; None: when the run ends, or if it doesn't."""
        self._passing.append((time.monotonic() + (self.patience / 4 if seconds is None else seconds), end))

    def _make_room(self) -> None:
        """At the latest when the next fault comes: steps take less time than a full disk lasts."""
        self._full.unlink(missing_ok=True)

    def _pause(self, seconds: float) -> None:
        """Wait; faults that last end when their time is over."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for passing in [each for each in self._passing if each[0] <= now]:
                self._passing.remove(passing)
                passing[1]()
            if now >= until:
                return
            time.sleep(min(_POLL, until - now))

    def _end_what_passes(self) -> None:
        """Whoever starts the run again has made room before, and stops nothing."""
        for _, end in self._passing:
            end()
        self._passing = []

    def _wait_for_end(self, why: str, killed: bool = False) -> None:
        assert self._command is not None
        deadline = time.monotonic() + self.patience
        while (code := self._command.poll()) is None:
            if time.monotonic() > deadline:
                raise StuckError(f"the run does not end within {self.patience:.0f} s after {why}")
            self._pause(_POLL)
        if not (code == 0 and (self.run / "summary.json").exists()):  # else it was done before
            self._ended(code, killed)

    @staticmethod
    def _send(victims: Sequence[psutil.Process], number: signal.Signals) -> None:
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(number)

    def _kill_all(self) -> None:
        if self._command is not None:
            found = processes_of(self._command.pid)
            for number in (signal.SIGCONT, signal.SIGKILL):
                self._send([process for each in found.values() for process in each], number)
            self._command.wait()
            self._command = None
