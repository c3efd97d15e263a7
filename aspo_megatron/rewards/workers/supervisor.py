"""The worker processes of a pool: started, waited for, and replaced when they are gone."""

from __future__ import annotations

import selectors
import time
from multiprocessing.process import BaseProcess

from aspo_megatron.config import RewardConfig
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line, plain_logger
from aspo_megatron.rewards.workers.handle import Handle
from aspo_megatron.rewards.workers.output import Output

logger = plain_logger(__name__)

_MAX_STARTS_ENDED = 3
_MAX_STARTS_KILLED = 10
_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0
_END_SECONDS = 5.0


def no_room(error: Exception) -> str:
    """What to tell if the system refuses a process, a thread or a descriptor."""
    return (
        f"the reward workers cannot be started: {one_line(error)}. Is there enough memory, and are the limits on "
        "processes (ulimit -u) and open files (ulimit -n) high enough? Lower reward.workers, or raise the limits"
    )


class Supervisor:
    """So many workers as the configuration asks for. For use by the one thread that makes it.

    Workers die with the thread that starts them, as the kernel takes that for their parent.
    """

    def __init__(self, config: RewardConfig, wake: int) -> None:
        """Note what is wanted; `fill` starts the processes.

        Args:
            config: the reward, and the number of workers.
            wake: a descriptor for `wait` to look at, too.
        """
        self._config = config
        self._config_text = config.model_dump_json()
        self._selector = selectors.DefaultSelector()
        self._selector.register(wake, selectors.EVENT_READ)
        self._dying: list[BaseProcess] = []
        self._output = Output(config.timeout_seconds)
        self._not_before = 0.0
        self._ended_early = self._killed_early = 0
        self._refusal: OSError | None = None
        self.workers: list[Handle] = []

    def fill(self, now: float) -> None:
        """Start the workers that are missing, after a pause if others ended as they started.

        Raises:
            UserError: too many in a row did so.
        """
        while self.has_missing and now >= self._not_before:
            self._check_starts()
            try:
                handle = Handle(self._config_text, self._output.ends)
            except OSError as error:
                logger.warning("a reward worker cannot be started: %s", error)
                self._refusal = error
                self._note_failed_start(now, was_killed=False)
                continue
            self._refusal = None
            self.workers.append(handle)
            self._selector.register(handle.connection, self._events(handle), handle)
            self._selector.register(handle.process.sentinel, selectors.EVENT_READ, handle)

    def _check_starts(self) -> None:
        rounds = 0
        if self._ended_early >= _MAX_STARTS_ENDED * self._config.workers:
            rounds = _MAX_STARTS_ENDED
        elif self._killed_early >= _MAX_STARTS_KILLED * self._config.workers:
            rounds = _MAX_STARTS_KILLED
        if rounds and self._refusal is not None:
            raise UserError(no_room(self._refusal)) from self._refusal
        if rounds:
            raise UserError(
                f"the reward workers (reward.kind={self._config.kind!r}) stop while starting, {rounds} times in a row; "
                "their own error is above. Can the module be imported in a fresh process, and is there enough memory?"
            )

    def _note_failed_start(self, now: float, was_killed: bool) -> None:
        self._ended_early += not was_killed
        self._killed_early += was_killed
        failed = self._ended_early + self._killed_early
        self._not_before = now + min(_PAUSE_SECONDS * failed / self._config.workers, _LONGEST_PAUSE_SECONDS)

    def forgive_starts(self) -> None:
        """Count failed starts anew: one worker has come to a task, or there is new work to try for."""
        self._ended_early = self._killed_early = 0

    @property
    def has_leaving(self) -> bool:
        """Whether a worker seems to be at its end."""
        return any(handle.leaving_since is not None for handle in self.workers)

    @property
    def has_dying(self) -> bool:
        """Whether a process is yet to be gone."""
        return bool(self._dying)

    @property
    def has_missing(self) -> bool:
        """Whether there are fewer workers than there should be."""
        return len(self.workers) < self._config.workers

    def wait(self, seconds: float | None) -> list[Handle]:
        """Until a worker has something to say, the wake descriptor is ready, or time is up."""
        heard: list[Handle] = []
        now = None
        for key, events in self._selector.select(seconds):
            handle = key.data
            if handle is None:
                continue
            if key.fd == handle.connection.fileno():
                if events & selectors.EVENT_WRITE:
                    self.watch(handle)
                heard.append(handle)
            else:  # Its end, or the descriptor's: a scorer may have closed it.
                self._selector.unregister(key.fileobj)
                now = now or time.monotonic()
                handle.leaving_since = handle.leaving_since or now
        return heard

    def watch(self, handle: Handle) -> None:
        """Send what its connection has room for, and wait for what it can bring now: nothing once it is closed."""
        if handle.is_gone:
            return
        handle.connection.flush()
        if handle.connection.is_closed:
            if handle.connection in self._selector.get_map():
                self._selector.unregister(handle.connection)
            handle.leaving_since = handle.leaving_since or time.monotonic()
        elif self._selector.get_key(handle.connection).events != self._events(handle):
            self._selector.modify(handle.connection, self._events(handle), handle)

    def _events(self, handle: Handle) -> int:
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if handle.connection.has_unsent else 0)

    def remove(self, handle: Handle, now: float) -> None:
        """End a worker, if it has not ended yet, and part with it."""
        for descriptor in (handle.connection, handle.process.sentinel):
            if descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        code = handle.process.exitcode
        handle.kill()
        self.workers.remove(handle)
        self._dying.append(handle.process)
        if not handle.is_proven:
            self._note_failed_start(now, was_killed=code is None or code < 0)

    def reap(self) -> None:
        """Part with the processes that have ended by now."""
        remaining = []
        for process in self._dying:
            if process.exitcode is None:
                remaining.append(process)
            else:
                process.close()
        self._dying = remaining

    def close(self) -> None:
        """End all workers."""
        for handle in tuple(self.workers):
            self.remove(handle, 0.0)
        latest = time.monotonic() + _END_SECONDS
        self.reap()
        while self._dying and time.monotonic() < latest:
            time.sleep(0.002)
            self.reap()
        for process in self._dying:
            logger.warning("reward worker %s does not end by SIGKILL", process.pid)
        self._output.close()
        self._selector.close()
