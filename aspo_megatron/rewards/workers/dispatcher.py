"""Gives responses to workers, and decides what becomes of those whose worker is lost.

Whatever happens to a worker from outside (killed, stopped, for lack of memory) changes no reward: the response is
scored again, by another. What a response does to each worker that tries it costs that response alone.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.util import Finalize
from typing import Any

from aspo_megatron.config import RewardConfig
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import plain_logger
from aspo_megatron.rewards.workers.handle import Handle, describe_exit, shape
from aspo_megatron.rewards.workers.messages import GarbledError
from aspo_megatron.rewards.workers.supervisor import Supervisor
from aspo_megatron.rewards.workers.task_queue import TaskQueue
from aspo_megatron.rewards.workers.tasks import Batch, Item, Reward, Task, tasks_of
from aspo_megatron.rewards.workers.worker import describe

logger = plain_logger(__name__)

_GRACE_SECONDS = 5.0
_STOPPED_SECONDS = 5.0
_LEAVING_SECONDS = 1.0
_LOOK_SECONDS = 0.25
_LEAVING_LOOK_SECONDS = 0.02
_GAP_SECONDS = 1.0
_SLOW_START_SECONDS = 60.0
_MAX_GIVEN = 64
_WORTH_SECONDS = 0.02
_MEMORY = 0.8


class Dispatcher:
    """A thread with a team of workers. Its methods may be called in any thread."""

    def __init__(self, config: RewardConfig) -> None:
        """Start the thread, and with it the workers."""
        self._timeout = config.timeout_seconds
        self._look_seconds = min(_LOOK_SECONDS, max(0.01, config.timeout_seconds / 4))
        self._lock = threading.Lock()  # for the three that follow
        self._new: list[Task] = []
        self._closed: Exception | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # All else is the thread's own.
        self._tasks = TaskQueue(config.timeout_seconds)
        self._supervisor = Supervisor(config, self._wake)
        self._open: deque[Handle] = deque()
        self._mean_seconds = _WORTH_SECONDS
        self._is_broken = False
        self._last_pass = self._next_look = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="reward pool", daemon=True)
        self._thread.start()
        # At exit multiprocessing waits for its processes for ever, but calls this before.
        self._at_exit = Finalize(None, self.close, exitpriority=1)

    @property
    def active(self) -> bool:
        """Whether it takes responses."""
        return self._closed is None

    def submit(self, items: Sequence[Item]) -> Batch:
        """Have (problem, response) pairs scored.

        Raises:
            RuntimeError: it was closed, or has failed.
        """
        batch = Batch(len(items))
        with self._lock:
            if self._closed is not None:
                raise self._closed
            self._new += tasks_of(batch, items)
            os.eventfd_write(self._wake, 1)
        return batch

    def close(self) -> None:
        """End the workers, whatever they are at, and the thread. A second call does nothing."""
        self._refuse(RuntimeError("the reward pool is closed"))
        self._thread.join()
        self._at_exit.cancel()

    def _refuse(self, reason: Exception) -> None:
        with self._lock:
            if self._closed is None:
                self._closed = reason
                os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        _block_signals()
        try:
            while self._closed is None:
                self._pass()
        except Exception as error:
            logger.exception("the reward pool has failed")
            self._refuse(RuntimeError(f"the reward pool has failed: {describe(error)}"))
        finally:
            self._end()

    def _end(self) -> None:
        for handle in self._supervisor.workers:
            self._tasks.put_back(task for task in handle.given if task is not None)
        with self._lock:
            assert self._closed is not None
            os.close(self._wake)
            self._tasks.add(self._new)
            self._new = []
        self._tasks.fail(self._closed)
        self._supervisor.close()

    def _pass(self) -> None:
        """Take on and give out what is there, wait until something happens, and see to it."""
        self._take_new()
        self._fill()
        self._give()
        patience = self._patience()
        heard = self._supervisor.wait(patience)
        now = self._now(patience)
        for handle in heard:  # before any time limit: what was finished in time counts
            self._hear(handle, now)
        if now >= self._next_look or self._supervisor.has_leaving:
            self._next_look = now + self._look_seconds
            for handle in tuple(self._supervisor.workers):
                self._see_to(handle, now)
            self._supervisor.reap()
            self._even_out(now)

    def _take_new(self) -> None:
        if not self._new and self._closed is None:
            return
        with self._lock:
            new, self._new = self._new, []
            if self._closed is None:
                os.eventfd_read(self._wake)
        if new:
            self._tasks.add(new)
            self._is_broken = False
            self._supervisor.forgive_starts()

    def _fill(self) -> None:
        """Start missing workers; if that is in vain, all that wait for a reward are told."""
        if self._is_broken or not self._supervisor.has_missing:
            return
        try:
            self._supervisor.fill(time.monotonic())
        except UserError as error:
            self._is_broken = True
            self._tasks.fail(error)
        _block_signals()  # Python's resource tracker, which starts with the first worker, lets some through.

    def _give(self) -> None:
        """Give each worker one after the other, and some more ahead if they take no longer than this does."""
        most = min(_MAX_GIVEN, 1 + int(_WORTH_SECONDS / max(self._mean_seconds, 1e-6) / 2))
        now = time.monotonic()
        served: dict[Handle, None] = {}
        while self._tasks and self._open:
            handle = self._open.popleft()
            if handle.is_gone:
                continue
            if len(handle.given) >= most or (handle.given and handle.connection.has_unsent) or handle.is_slow(now):
                handle.is_open = False
                continue
            self._give_one(handle, now)
            served[handle] = None
            self._open.append(handle)
        for handle in served:
            self._supervisor.watch(handle)

    def _give_one(self, handle: Handle, now: float) -> None:
        task = self._tasks.next()
        try:
            handle.give(task, now + self._timeout + _GRACE_SECONDS)
        except Exception as error:  # pickle's, or those of a user's class in the metadata
            task.end(Reward(0.0, f"the problem cannot be sent to a worker: {describe(error)}"))

    def _even_out(self, now: float) -> None:
        """Give what waits behind slow ones to workers that have nothing to do."""
        if not self._tasks and any(handle.is_ready and not handle.given for handle in self._supervisor.workers):
            for handle in self._supervisor.workers:
                if handle.is_slow(now):
                    self._tasks.put_back(handle.take_back())

    def _patience(self) -> float | None:
        if self._supervisor.has_leaving:
            return _LEAVING_LOOK_SECONDS
        busy = bool(self._tasks) or any(handle.given for handle in self._supervisor.workers)
        changing = self._supervisor.has_dying or (self._supervisor.has_missing and not self._is_broken)
        return self._look_seconds if busy or changing else None

    def _now(self, patience: float | None) -> float:
        """The time; if this process was stopped since the last pass, limits are shifted by so much."""
        now = time.monotonic()
        gap = now - self._last_pass - (patience or 0.0)
        self._last_pass = now
        if patience is not None and gap > _GAP_SECONDS:
            for handle in self._supervisor.workers:
                handle.shift(gap)
        return now

    def _hear(self, handle: Handle, now: float, is_last: bool = False) -> None:
        """Take what a worker has to say."""
        if handle.is_gone:
            return
        try:
            messages = handle.connection.receive_last() if is_last else handle.connection.receive()
            for message in messages:
                self._take(handle, message, now)
        except GarbledError:
            self._part(handle, "wrote to its worker's connection", now)
            return
        if handle.connection.is_closed:
            self._supervisor.watch(handle)

    def _take(self, handle: Handle, message: list[Any], now: float) -> None:
        """One message of a worker, see `worker.main`."""
        kind = shape(message)
        if kind == "ready" and not handle.is_ready:
            handle.is_ready = True
        elif kind == "begun" and handle.given and handle.begun is None:
            handle.begin(now, now + self._timeout)
            self._supervisor.forgive_starts()
            return
        elif kind == "done" and handle.begun is not None:
            _, value, parts, error, was_continued, seconds = message
            task, was_stopped = handle.finish(now + self._timeout + _GRACE_SECONDS)
            self._mean_seconds = _MEMORY * self._mean_seconds + (1 - _MEMORY) * seconds
            if task is not None:
                self._tasks.finish(task, Reward(value, error, parts), was_stopped or was_continued)
        else:
            raise GarbledError
        if not handle.is_open:
            handle.is_open = True
            self._open.append(handle)

    def _see_to(self, handle: Handle, now: float) -> None:
        """See whether a worker is there, and gets on."""
        code = handle.process.exitcode
        if code is not None:
            self._hear(handle, now, is_last=True)
            if not handle.is_gone:
                self._bury(handle, code, now)
            return
        handle.look(now)
        if not handle.is_ready and not handle.is_known_slow and now - handle.started > _SLOW_START_SECONDS:
            handle.is_known_slow = True
            logger.warning("a reward worker is not ready after %.0f s: it still loads the scorer", now - handle.started)
        if handle.leaving_since is not None and now - handle.leaving_since > _LEAVING_SECONDS:
            self._part(handle, "closed its worker's connection", now)
        elif handle.stopped_since is not None and now - handle.stopped_since >= _STOPPED_SECONDS:
            self._part(handle, "was stopped (SIGSTOP)", now)
        elif handle.given and now >= handle.deadline:
            self._hear(handle, now, is_last=True)
            if not handle.is_gone and handle.given and now >= handle.deadline:
                self._end_overdue(handle, now)

    def _end_overdue(self, handle: Handle, now: float) -> None:
        if handle.begun is None:
            self._part(handle, "did not take up its work", now)
        else:
            self._time_out(handle, now)

    def _bury(self, handle: Handle, code: int, now: float) -> None:
        """See to what a worker was at that has ended."""
        had_its_time = handle.begun is not None and now - handle.begun >= self._timeout
        if code == -signal.SIGALRM and had_its_time:
            self._time_out(handle, now)
        else:
            self._part(handle, describe_exit(code), now)

    def _time_out(self, handle: Handle, now: float) -> None:
        task = self._remove(handle, now)
        if task is not None:
            self._tasks.time_out(task, handle.was_stopped or handle.was_unseen, handle.has_rested)

    def _part(self, handle: Handle, what: str, now: float) -> None:
        """Part with a worker; `what` it did."""
        task = self._remove(handle, now)
        if task is not None:
            self._tasks.lose(task, f"the scorer {what}")
        else:
            logger.warning("a reward worker %s; another takes its place", what)

    def _remove(self, handle: Handle, now: float) -> Task | None:
        """End a worker; what it had not begun with counts as never given to it. Returns what it had begun with."""
        self._supervisor.remove(handle, now)
        begun = handle.given.popleft() if handle.begun is not None else None
        self._tasks.put_back(task for task in handle.given if task is not None)
        return begun


def _block_signals() -> None:
    """Leave signals to the other threads. Workers inherit this, and let them through when they are set up for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
