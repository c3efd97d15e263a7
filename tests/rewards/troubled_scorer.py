"""A scorer that does to its process what its response says; used by import path, in worker processes."""

from __future__ import annotations

import os
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from aspo_megatron.data.samples import Problem


class Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def act(problem: Problem, response: str) -> object:
    verb, _, argument = response.partition(" ")
    if verb == "number":
        return float(argument)
    if verb == "die":
        os.kill(os.getpid(), int(argument))
        return 1.0
    if verb == "wait":
        return wait(Path(argument))
    if verb == "first":
        return first(Path(argument))
    if verb == "nap":
        time.sleep(float(argument.split()[0]))
        return 3.0
    if verb == "raise":
        raise RAISED[argument]
    return DEEDS[verb]()


def wait(path: Path) -> float:
    """Says its pid, and waits to be allowed to go on."""
    path.with_name(f"{path.name}.{os.getpid()}").touch()
    while not path.exists():
        time.sleep(0.005)
    return 2.0


def first(path: Path) -> float:
    """Gives a value of its own in the first process that tries, as a scorer with a time limit that ran out."""
    tried = path.with_name(path.name + ".tried")
    if tried.exists():
        return 5.0
    tried.touch()
    wait(path)
    return 7.0


def connections() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.append(int(name))
        except OSError:
            continue
    return found


def say(content: bytes) -> float:
    for descriptor in connections():
        os.write(descriptor, content)
    return 1.0


def half_a_message() -> float:
    say(struct.pack("!Q", 1000) + b'["done", 1.0')
    os._exit(3)


def close_all() -> float:
    os.closerange(3, 1024)
    return 1.0


def shut() -> float:
    for descriptor in connections():
        socket.socket(fileno=os.dup(descriptor)).shutdown(socket.SHUT_RDWR)
    return 1.0


def fork_and_return() -> float:
    os.fork()
    return 1.0


def fork_and_die() -> float:
    """A child keeps all descriptors of a worker that is gone."""
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
    os._exit(9)


def exit_in_a_thread() -> float:
    threading.Thread(target=os._exit, args=(4,)).start()
    time.sleep(60)
    return 1.0


def linger(daemon: bool) -> float:
    threading.Thread(target=time.sleep, args=(1000,), daemon=daemon).start()
    return 1.0


def ignore_signals() -> float:
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return 1.0


def write_everywhere() -> float:
    os.write(1, b"\x00\xff garbage" * 100)
    os.write(2, b"\x00\xff garbage" * 100)
    sys.stdout.close()
    return 1.0


def loop() -> float:
    while True:
        pass


RAISED: dict[str, BaseException] = {
    "error": RuntimeError("no such luck"),
    "huge": RuntimeError("x" * 20_000_000),
    "lines": RuntimeError("a\nb\n\nc"),
    "surrogate": RuntimeError("\ud800"),
    "wordless": Wordless(),
    "interrupt": KeyboardInterrupt(),
    "generator": GeneratorExit(),
    "base": BaseException("base"),
    "memory": MemoryError(),
    "exit": SystemExit("bye"),
}
DEEDS: dict[str, Callable[[], object]] = {
    "pid": lambda: (time.sleep(0.02), os.getpid())[1],
    "_exit": lambda: os._exit(9),
    "_exit0": lambda: os._exit(0),
    "abort": os.abort,
    "exit-in-thread": exit_in_a_thread,
    "half": half_a_message,
    "garbage": lambda: say(b"garbage, garbage, garbage"),
    "zeros": lambda: say(bytes(4096)),
    "lies": lambda: say(struct.pack("!Q", 7) + b'["done"'),
    "unasked": lambda: say(struct.pack("!Q", 9) + b'["ready"]'),
    "flood": lambda: say(b"[" * 100_000),
    "close": close_all,
    "shut": shut,
    "fork-and-die": fork_and_die,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "loop": loop,
    "sleep": lambda: time.sleep(1000),
    "fork": fork_and_return,
    "daemon-thread": lambda: linger(True),
    "thread": lambda: linger(False),
    "deaf": ignore_signals,
    "everywhere": write_everywhere,
    "integer": lambda: 10**30,
    "function": lambda: act,
    "lambda": lambda: lambda: 0,
    "lock": threading.Lock,
    "nothing": lambda: None,
    "text": lambda: "x" * 20_000_000,
    "complex": lambda: 1j,
    "infinite": lambda: float("inf"),
    "too-big": lambda: 10**400,
}
