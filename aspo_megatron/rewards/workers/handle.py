"""A worker process as the pool sees it: its task, since when, and whether it gets on."""

from __future__ import annotations

import pickle
import signal
import socket
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any

import psutil

from aspo_megatron.launch.rank_status import is_stopped
from aspo_megatron.rewards.workers.messages import PoolsEnd
from aspo_megatron.rewards.workers.output import WorkersOutput
from aspo_megatron.rewards.workers.tasks import Task
from aspo_megatron.rewards.workers.worker_process import WorkerContext, begin

_RESTING_SHARE = 0.1
_SLOW_SECONDS = 0.1


@dataclass(frozen=True)
class _Look:
    """What the kernel says of a process at a time: whether it is stopped, and its CPU seconds so far."""

    time: float
    is_stopped: bool
    cpu_seconds: float


def _look(pid: int, now: float) -> _Look | None:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return _Look(now, is_stopped(process), sum(process.cpu_times()[:4]))  # its own, and of children that ended
    except psutil.Error:
        return None


class Handle:
    """One worker process.

    `given` is what it was given and has not answered, in its order; None where that was taken back. `begun` is when it
    said that it has begun with the first of these, and `deadline` until when it has time for its next word.
    `was_stopped` says that the process was seen stopped since, `was_unseen` that this one was: in both cases it says
    nothing that time has run out.
    """

    def __init__(self, config: str, output: WorkersOutput) -> None:
        """Start the process; it says when it is ready.

        Args:
            config: a `RewardConfig` in JSON.
            output: where it prints.

        Raises:
            OSError: there is no memory or descriptor left for it.
        """
        ours, theirs = socket.socketpair()
        self.connection = PoolsEnd(ours)
        try:
            self.process = WorkerContext().Process(target=begin, args=(theirs, output), name="reward worker")
            self.process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.connection.send(config.encode())
        self.connection.flush()
        self.started = time.monotonic()
        self.is_ready = self.is_proven = self.is_gone = self.is_known_slow = self.is_open = False
        self.given: deque[Task | None] = deque()
        self.begun: float | None = None
        self.deadline = 0.0
        self.was_stopped = self.was_unseen = False
        self.stopped_since: float | None = None
        self.leaving_since: float | None = None
        self._first: _Look | None = None
        self._last: _Look | None = None

    @property
    def pid(self) -> int:
        """Process id."""
        assert self.process.pid is not None
        return self.process.pid

    def give(self, task: Task, deadline: float) -> None:
        """Have it score a response, after those that it has; `connection.flush` sends it.

        Args:
            task: the response.
            deadline: until when it must have begun, if it has no other.

        Raises:
            Exception: the problem cannot be sent to another process.
        """
        content = pickle.dumps(task.item, pickle.HIGHEST_PROTOCOL)
        self.connection.send(content)
        self.given.append(task)
        if len(self.given) == 1:
            self._turn_to_first(deadline)

    def begin(self, now: float, deadline: float) -> None:
        """Note that it has begun with the first that it was given."""
        self.begun, self.deadline, self.is_proven = now, deadline, True

    def finish(self, deadline: float) -> tuple[Task | None, bool]:
        """Take the first one as done, and whether the process was seen stopped meanwhile."""
        was_stopped, self.stopped_since = self.was_stopped, None  # it has just said something
        task = self.given.popleft()
        self._turn_to_first(deadline)
        return task, was_stopped

    def _turn_to_first(self, deadline: float) -> None:
        self.begun, self.deadline = None, deadline
        self.was_stopped, self.was_unseen = self.stopped_since is not None, False
        self._first = self._last = None

    def take_back(self) -> list[Task]:
        """All but the first. The worker scores them all the same, and is not listened to."""
        taken = [task for task in islice(self.given, 1, None) if task is not None]
        for index in range(1, len(self.given)):
            self.given[index] = None
        return taken

    def is_slow(self, now: float) -> bool:
        """Whether the first takes so long that others should not wait behind it."""
        return self.begun is not None and now - self.begun > _SLOW_SECONDS

    def look(self, now: float) -> None:
        """See whether it is stopped, and what time it has used."""
        found = _look(self.pid, now)
        if found is None:
            return
        self.stopped_since = (self.stopped_since or now) if found.is_stopped else None
        self.was_stopped = self.was_stopped or found.is_stopped
        self._first = self._first or found
        self._last = found

    def shift(self, seconds: float) -> None:
        """Give it more time: so long this process did not run itself, and may have missed what that one did."""
        self.deadline += seconds
        self.was_unseen = True
        if self.stopped_since is not None:
            self.stopped_since += seconds

    @property
    def has_rested(self) -> bool:
        """Whether it has hardly run since it was first looked at with the first that it was given."""
        first, last = self._first, self._last
        if first is None or last is None or last.time <= first.time:
            return False
        return last.cpu_seconds - first.cpu_seconds < _RESTING_SHARE * (last.time - first.time)

    def kill(self) -> None:
        """End the process, stopped or not, and part with it."""
        self.is_gone = True
        self.connection.close()
        self.process.kill()


def describe_exit(code: int) -> str:
    """What a process or its scorer did, as its exit code says."""
    if code >= 0:
        return f"ended its process (exit code {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal
        name = f"signal {-code}"
    return f"crashed ({name})"


def shape(message: list[Any]) -> str:
    """The kind of a message of `worker.main`, or nothing if it is none of these."""
    match message:
        case ["ready" | "begun" as kind]:
            return str(kind)
        case ["done", float(), dict(), str() | None, bool(), float()]:
            return "done"
    return ""
