"""The process that shuts itself off from the machine, and runs each program in a child of its own.

Started as: interpreter, flags, `-c` code that calls `main`, a JSON object (see `Settings`).

The launching process is the one that leaves the namespaces; its child is process 1 of the new ones, so that all that
runs in there dies with it. SIGTERM to the launching process ends everything, and so does its parent's death.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NoReturn

from . import kernel, landlock, program, root, seccomp, threads

Mode = Literal["namespaces", "landlock", "rlimits"]

_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_FIRST_USER = 0x7F000000  # Above those of directory services, too.
_NOBODY = 65534
_OWN_PROCESSES = 4  # this one, process 1 of the sandbox, its child for a program, and process 1 of the program's
_MESSAGE_BYTES = 65536
_DESCRIPTORS = 3


@dataclass(frozen=True)
class Settings:
    """How to isolate. `control` is a descriptor, `parent` the process that it leads to.

    Per program: `memory`, `files` and `stack` in bytes, `tasks` threads and processes, `processes` whether it may
    start processes at all. `readable`: paths it can read; `packages`: those of them that it can import from.
    """

    mode: Mode
    control: int
    parent: int
    readable: list[str]
    packages: list[str]
    memory: int
    files: int
    tasks: int
    processes: bool


def main() -> NoReturn:
    """Isolate this process and serve until the control socket closes."""
    settings = Settings(**json.loads(sys.argv[-1]))
    control = socket.socket(fileno=settings.control)
    try:
        user = _isolate(settings)
        task_limit = _task_limit(settings, user)
        kernel.die_with_parent()
        if os.getppid() != settings.parent:
            os._exit(1)
        ready, go = os.pipe()
        child = os.fork()
    except OSError as error:
        control.send(json.dumps({"error": str(error)}).encode())
        os._exit(1)
    if child == 0:
        os.close(go)
        kernel.die_with_parent()
        if not os.read(ready, 1):  # The launching process died before it would have been noticed.
            os._exit(1)
        os.close(ready)
        _serve(control, settings, user, task_limit)
    control.close()
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    os.write(go, b"1")
    os.waitpid(child, 0)
    os._exit(0)


def _isolate(settings: Settings) -> int | None:
    """Enter namespaces and a new root. Returns the user that programs become, None if they cannot become another.

    Raises:
        OSError: the kernel cannot do what the mode needs, or does not let us.
    """
    kernel.architecture()
    if settings.mode == "landlock":
        landlock.version()
    if settings.mode != "namespaces":
        return None
    user, group = os.geteuid(), os.getegid()
    program_user: int | None = _FIRST_USER + os.getpid()
    try:
        kernel.unshare(_NAMESPACES)
    except PermissionError:
        program_user = None
        kernel.unshare(_NAMESPACES | kernel.CLONE_NEWUSER)
        for name, text in [("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")]:
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    root.enter(settings.readable)
    return program_user


def _task_limit(settings: Settings, user: int | None) -> int | None:
    """RLIMIT_NPROC: it counts per user, and since Linux 5.14 per user and user namespace."""
    if user is not None:
        return settings.tasks
    if settings.mode == "namespaces" and kernel.release() >= (5, 14):
        return settings.tasks + _OWN_PROCESSES
    return None  # Other processes of the user count, too.


def _serve(control: socket.socket, settings: Settings, user: int | None, task_limit: int | None) -> NoReturn:
    """Run the programs that are asked for, one at a time."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kernel.hide()
    namespaces = settings.mode == "namespaces"
    if not namespaces:
        _enter_deleted_folder()
    elif _apart(lambda _: os._exit(0)) != 0:
        control.send(json.dumps({"error": "a program cannot be given a PID namespace of its own"}).encode())
        os._exit(1)
    asks = not namespaces and kernel.can_ask()
    prepared = program.prelude()
    gc.freeze()
    control.send(b"{}")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, _DESCRIPTORS)
        if not message:
            os._exit(0)
        run = partial(_run, settings, user, task_limit, json.loads(message), descriptors, prepared)
        ended = _apart(run, descriptors) if namespaces else _beside(run, descriptors, settings.tasks if asks else None)
        control.send(json.dumps({"status": ended}).encode())


def _run(
    settings: Settings,
    user: int | None,
    task_limit: int | None,
    request: dict[str, Any],
    descriptors: list[int],
    prepared: dict[str, Any],
    asking: int | None,
) -> NoReturn:
    """Run a program, in the process that is its own; see `_shut_in`."""
    source = _shut_in(settings, user, task_limit, request, descriptors, asking)
    program.run(source, request["function"], prepared, settings.packages)
    sys.exit(0)  # The interpreter's end waits for threads and flushes.


def _enter_deleted_folder() -> None:
    """An empty working folder in which nothing can be made."""
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)


def _apart(run: Callable[[None], NoReturn], given: Sequence[int] = ()) -> int:
    """Call `run` in process 2 of a PID namespace of its own, whose numbers begin anew and which ends with it.

    Closes the descriptors `given`. How it ended: an exit code, or less the number of a signal.
    """
    reading, writing = os.pipe()
    outer = os.fork()
    if outer == 0:
        try:
            kernel.unshare(kernel.CLONE_NEWPID)
            first = os.fork()
        except OSError:
            os._exit(1)
        if first > 0:
            os.waitpid(first, 0)
            os._exit(0)
        child = os.fork()
        if child == 0:
            run(None)
        os.write(writing, str(_wait(child)).encode())
        os._exit(0)  # With process 1 the kernel ends whatever is left, before those outside see it ended.
    for descriptor in (writing, *given):
        os.close(descriptor)
    os.waitpid(outer, 0)
    ended = os.read(reading, _MESSAGE_BYTES)
    os.close(reading)
    return int(ended) if ended else 1


def _beside(run: Callable[[int | None], NoReturn], given: Sequence[int], most_threads: int | None) -> int:
    """Call `run` in a child; closes the descriptors `given`. How it ended, as `_apart` says it."""
    asking, answering = socket.socketpair()
    child = os.fork()
    if child == 0:
        answering.close()
        run(None if most_threads is None else asking.detach())
    for descriptor in given:
        os.close(descriptor)
    asking.close()
    with answering:
        _, questions, _, _ = socket.recv_fds(answering, 1, 1)  # none of a program that is not bounded, or that died
    for descriptor in questions:
        threads.answer(child, descriptor, most_threads or 0)
        os.close(descriptor)
    return _wait(child)


def _wait(child: int) -> int:
    """How a child ended; others that end meanwhile are forgotten."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            return os.waitstatus_to_exitcode(status)


def _shut_in(
    settings: Settings,
    user: int | None,
    task_limit: int | None,
    request: dict[str, Any],
    descriptors: list[int],
    asking: int | None,
) -> str:
    """Give up, in the program's process, all that it must not have. Returns its source.

    `descriptors` are source, input and output; `asking` is that of a socket to who is asked before a thread starts.
    """
    if asking is not None:
        kernel.gain_nothing()
        with socket.socket(fileno=asking) as there:
            socket.send_fds(there, [b"1"], [threads.ask_first()])
    source_file, standard_input, output = descriptors
    null = os.open(os.devnull, os.O_RDWR)  # Its own: what is done to an open file stays as long as that does.
    if settings.mode == "namespaces":
        kernel.unshare(kernel.CLONE_NEWNS)
        root.new_work_folder(settings.files)
    with open(source_file, "rb") as file:
        source = file.read().decode("utf-8", "replace")
    # Above all targets first, so that none is overwritten before it is copied.
    high = [os.dup2(descriptor, 100 + index) for index, descriptor in enumerate((standard_input, output, null))]
    is_call = request["function"] is not None
    for target, origin in enumerate([high[0], high[2] if is_call else high[1], high[2], *high[1:2] * is_call]):
        os.dup2(origin, target)
    os.closerange(4 if is_call else 3, 65536)
    _limit(settings, request["cpu_seconds"], task_limit)
    if user is not None:
        _become(user)
    kernel.drop_capabilities()
    kernel.gain_nothing()
    kernel.die_with_parent()
    if settings.mode == "landlock":
        landlock.restrict([*settings.readable, ".", "/dev/null", "/dev/urandom"])
    own_files = settings.mode == "namespaces"
    kernel.install_filter(seccomp.build(may_write=own_files, may_fork=settings.processes))
    return source


def _become(user: int) -> None:
    """Become a user that owns nothing and that no other sandbox has; `nobody` if there are not so many users here."""
    os.setgroups([])
    try:
        os.setresgid(user, user, user)
    except OSError:
        user = _NOBODY
        os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _limit(settings: Settings, cpu_seconds: int, task_limit: int | None) -> None:
    file_bytes = settings.files if settings.mode == "namespaces" else 0
    limits = {
        resource.RLIMIT_AS: settings.memory,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if task_limit is not None:
        limits[resource.RLIMIT_NPROC] = task_limit
    for name, value in limits.items():
        _, hard = resource.getrlimit(name)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
