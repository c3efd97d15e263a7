"""Runs untrusted Python programs, shut off from the machine (docs/rewards.md says how, and what that guarantees).

The side that is shut off is `rewards.programs.jail`. This side gives it a program and an input, takes what comes
out, and ends it. It believes nothing but that output: right answers never go in, and the comparison is done by the
caller, out here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import ceil
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from aspo_megatron.errors import ConfigError
from aspo_megatron.rewards.programs.interpreter import command, environment, package_folders, readable_paths
from aspo_megatron.rewards.programs.jail.init import Mode

if TYPE_CHECKING:
    from aspo_megatron.config.words import SandboxChoice

Status = Literal["done", "failed", "late", "too much output"]
"""How a program ended: by itself; with an exception, a signal or an exit code; by its time limit; by its output."""

_START_SECONDS = 20.0
_END_SECONDS = 5.0
_CHUNK = 65536
_MIB = 1 << 20
_SENT_LIMITS = ("memory", "files", "tasks", "processes")


@dataclass(frozen=True)
class Limits:
    """What one program may use. `seconds` of wall time, and as many of one CPU; sizes in bytes.

    `files` holds for all its files together. `tasks` counts threads, and processes if it may start any.
    """

    seconds: float = 6.0
    memory: int = 1024 * _MIB
    output: int = 16 * _MIB
    files: int = 16 * _MIB
    tasks: int = 32
    processes: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a program ended, and what it wrote; `output` is empty if it was cut off. `detail` is for reading."""

    status: Status
    output: bytes = b""
    detail: str = ""


class Sandbox:
    """A place to run programs in, one after the other; each starts afresh.

    For use by one thread, with whose end the sandbox ends.

    It is set up with the first program, and again after one that had to be killed. `close`, the context manager or
    the death of this process end it with all that runs in it.
    """

    def __init__(self, mode: Mode, limits: Limits, *, packages: bool = True) -> None:
        """Note what is wanted; nothing is started yet.

        Args:
            mode: how to isolate; `find_mode` tells what this machine can do.
            limits: for each program.
            packages: whether programs can import the packages installed beside this one, as numpy.

        Raises:
            ValueError: processes are allowed where they could not be ended.
        """
        if limits.processes and mode != "namespaces":
            raise ValueError("programs may start processes only in the mode `namespaces`")
        self._mode: Mode = mode
        self._limits = limits
        self._packages = packages
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def run(self, source: str, standard_input: str, seconds: float | None = None) -> Outcome:
        """Run a program; the output is what it wrote to standard output.

        Args:
            source: Python code.
            standard_input: what it can read.
            seconds: time that is left, the sandbox's start included, besides the limit; None: any.

        Raises:
            ConfigError: the sandbox cannot be set up.
        """
        return self._execute(source, None, standard_input, seconds)

    def call(self, source: str, function: str, arguments: str, seconds: float | None = None) -> Outcome:
        """Call a function of a program; the output is the returned value as JSON, if the program is to be believed.

        Args:
            source: Python code.
            function: name of a method of its class `Solution` if it has one, or of a function.
            arguments: JSON list, see `jail.arguments`.
            seconds: time that is left, the sandbox's start included, besides the limit; None: any.

        Raises:
            ConfigError: the sandbox cannot be set up.
        """
        return self._execute(source, function, arguments, seconds)

    def close(self) -> None:
        """End all that runs in there. A second call does nothing."""
        process, self._process = self._process, None
        if self._control is not None:
            self._control.close()
            self._control = None
        if process is not None:
            process.terminate()  # It kills process 1 of its namespaces, and waits until all are gone.
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _execute(self, source: str, function: str | None, text: str, seconds: float | None) -> Outcome:
        latest = None if seconds is None else time.monotonic() + seconds
        control = self._control or self._start()
        deadline = time.monotonic() + self._limits.seconds
        request = json.dumps({"function": function, "cpu_seconds": ceil(self._limits.seconds)}).encode()
        reading, writing = os.pipe()
        try:
            given = [_file_with(source), _file_with(text), writing]
            try:
                socket.send_fds(control, [request], given)
            finally:
                for descriptor in given:
                    os.close(descriptor)
            outcome = self._collect(control, reading, deadline if latest is None else min(deadline, latest))
        except (BrokenPipeError, ConnectionResetError):
            outcome = Outcome("failed", detail="the sandbox has ended")
        finally:
            os.close(reading)
        if outcome.status in ("late", "too much output") or outcome.detail == "the sandbox has ended":
            self.close()
        return outcome

    def _collect(self, control: socket.socket, reading: int, deadline: float) -> Outcome:
        """The output, to its end, and how the program ended."""
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        poll.register(control, select.POLLIN)
        output: list[bytes] = []
        size, is_open, reply = 0, True, None
        while is_open or reply is None:
            ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ready:
                return Outcome("late", detail="it took too long")
            for descriptor, _ in ready:
                if descriptor != reading:
                    reply = control.recv(_CHUNK)
                    poll.unregister(control)
                    if not reply:
                        return Outcome("failed", detail="the sandbox has ended")
                    continue
                chunk = os.read(reading, _CHUNK)
                output.append(chunk)
                size += len(chunk)
                if not chunk:
                    is_open = False
                    poll.unregister(reading)
                if size > self._limits.output:
                    return Outcome("too much output", detail=f"it wrote more than {self._limits.output} bytes")
        status = json.loads(reply or b"{}")["status"]
        if status != 0:
            return Outcome("failed", b"".join(output), f"it ended with {_describe(status)}")
        return Outcome("done", b"".join(output))

    def _start(self) -> socket.socket:
        self.close()
        control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                command(json.dumps(self._settings(other.fileno()))),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment(),
                pass_fds=[other.fileno()],
                start_new_session=True,
            )
        self._control = control
        control.settimeout(_START_SECONDS)
        reply = b""
        with suppress(TimeoutError, ConnectionResetError):
            reply = control.recv(_CHUNK)
        error = json.loads(reply).get("error") if reply else "the process in it does not start"
        if error is not None:
            self.close()
            raise ConfigError(f"reward.code.sandbox: {self._mode}: {error}")
        control.settimeout(None)
        return control

    def _settings(self, control: int) -> dict[str, Any]:
        packages = package_folders() if self._packages else []
        return {
            "mode": self._mode,
            "control": control,
            "parent": os.getpid(),
            "readable": readable_paths(packages),
            "packages": packages,
            **{name: value for name, value in dataclasses.asdict(self._limits).items() if name in _SENT_LIMITS},
        }


@cache
def find_mode(wanted: SandboxChoice) -> Mode:
    """The way of isolating that is wanted, after a try; for `auto` the best that works here.

    Raises:
        ConfigError: it does not work on this machine, and for `auto` none but `rlimits` could.
    """
    reasons: list[str] = []
    modes: tuple[Mode, ...] = ("namespaces", "landlock") if wanted == "auto" else (wanted,)
    for mode in modes:
        try:
            with Sandbox(mode, Limits(seconds=_START_SECONDS), packages=False) as sandbox:
                outcome = sandbox.run("print(6 * 7)", "")
        except ConfigError as error:
            reasons.append(str(error).removeprefix("reward.code.sandbox: "))
            continue
        if outcome.output == b"42\n":
            return mode
        reasons.append(f"{mode}: a program that prints 42 fails: {outcome.detail}")
    hint = "" if wanted == "rlimits" else "; docs/rewards.md says what it needs"
    if wanted == "auto":
        hint += ", and what `rlimits` lacks, which works without"
    raise ConfigError(f"reward.code.sandbox: {wanted} does not work on this machine ({'; '.join(reasons)}){hint}")


def _describe(status: int) -> str:
    return f"exit code {status}" if status > 0 else f"signal {-status}"


def _file_with(text: str) -> int:
    """Descriptor of a file in memory."""
    descriptor = os.memfd_create("input")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(text.encode("utf-8", "surrogatepass"))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
