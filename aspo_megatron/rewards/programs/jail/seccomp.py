"""The system call filter of a program, as classic BPF."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios
from dataclasses import dataclass

from . import kernel, syscalls

_AUDIT_ARCH = (0xC000003E, 0xC00000B7)
_ALLOW, _ERRNO, _KILL, _ASK = 0x7FFF0000, 0x00050000, 0x80000000, 0x7FC00000
_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16

_ANY = 0xFFFFFFFF
_CLONE_THREAD = 0x00010000
_OWN_DESCRIPTORS = (
    *(fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD),
    *(fcntl.F_GETFL, fcntl.F_SETFL, fcntl.F_GETPIPE_SZ),
)
_FUTEX_PRIVATE, _FUTEX_REALTIME, _FUTEX_WAIT, _FUTEX_WAIT_BITSET = 128, 256, 0, 9
_OWN_FUTEXES = tuple(range(_FUTEX_PRIVATE, _FUTEX_PRIVATE + 14))
_CLOCKS = tuple(range(12))
_OWN_MEMORY = (0, 1, 2, 4, 8, 10, 11, 14, 15, 16, 17, 18, 19)
"""What `madvise` may be told: how memory will be used, and that it is not needed, not what is to be done with files."""

_SOCKET_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


@dataclass(frozen=True)
class _Rule:
    """That (argument & mask) must be one of the values. Lower 32 bits: all these are ints."""

    argument: int
    values: tuple[int, ...]
    mask: int = _ANY


def build(*, may_write: bool, may_fork: bool) -> bytes:
    """The filter for the calling process.

    Args:
        may_write: it has a file system of its own; otherwise it can open files for reading only.
        may_fork: it may start processes; otherwise threads only.

    Raises:
        OSError: this architecture is not known.
    """
    column = kernel.architecture()
    allowed = dict(syscalls.ALWAYS)
    if may_write:
        allowed |= syscalls.WRITING
    if may_fork:
        allowed |= syscalls.FORKING
    rules = _rules(may_write, may_fork)
    code = [
        _load(_ARCH_AT),
        _instruction(_EQUAL, _AUDIT_ARCH[column], 1, 0),
        _instruction(_RETURN, _KILL),
        _load(_NUMBER_AT),
    ]
    for numbers in allowed.values():
        if numbers[column] is not None:
            code += [_instruction(_EQUAL, numbers[column] or 0, 0, 1), _instruction(_RETURN, _ALLOW)]
    for name, numbers in syscalls.CONDITIONAL.items():
        if numbers[column] is not None:
            checks = [step for rule in rules[name] for step in _check(rule)]
            code += [_instruction(_EQUAL, numbers[column] or 0, 0, len(checks) + 1), *checks]
            code += [_instruction(_RETURN, _ALLOW)]
    code.append(_instruction(_RETURN, _ERRNO | errno.ENOSYS))
    return b"".join(code)


def asking(name: str) -> bytes:
    """A filter that leaves the calls of one name to another process, and has no say about others."""
    column = kernel.architecture()
    number = syscalls.CONDITIONAL[name][column]
    assert number is not None
    return b"".join(
        [
            _load(_ARCH_AT),
            _instruction(_EQUAL, _AUDIT_ARCH[column], 1, 0),
            _instruction(_RETURN, _ALLOW),
            _load(_NUMBER_AT),
            _instruction(_EQUAL, number, 0, 1),
            _instruction(_RETURN, _ASK),
            _instruction(_RETURN, _ALLOW),
        ]
    )


def _rules(may_write: bool, may_fork: bool) -> dict[str, tuple[_Rule, ...]]:
    """What each conditional call's arguments must be."""
    itself = os.getpid()
    changing = 0 if may_write else os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
    return {
        # Not locks, leases and owners, which belong to files and outlive a program or reach another.
        "fcntl": (_Rule(1, _OWN_DESCRIPTORS),),
        # A file's memory is shared with other programs that map it: none is woken there. Joining a thread waits there.
        "futex": (_Rule(1, (*_OWN_FUTEXES, _FUTEX_WAIT, _FUTEX_WAIT_BITSET), mask=~_FUTEX_REALTIME & _ANY),),
        "madvise": (_Rule(2, _OWN_MEMORY),),
        # Others would be those of other processes.
        **dict.fromkeys(("clock_gettime", "clock_getres", "clock_nanosleep"), (_Rule(0, _CLOCKS),)),
        "ioctl": (_Rule(1, (termios.TCGETS, termios.FIONREAD, termios.FIONBIO, termios.FIOCLEX, termios.FIONCLEX)),),
        "open": (_Rule(1, (0,), mask=changing),),
        "openat": (_Rule(2, (0,), mask=changing),),
        # asyncio wakes itself through such a pair. A datagram socket could address others.
        "socketpair": (_Rule(0, (socket.AF_UNIX,)), _Rule(1, (socket.SOCK_STREAM,), mask=~_SOCKET_FLAGS & _ANY)),
        "prlimit64": (_Rule(0, (0, itself)),),
        "kill": () if may_fork else (_Rule(0, (itself,)),),
        "tgkill": () if may_fork else (_Rule(0, (itself,)),),
        "clone": () if may_fork else (_Rule(0, (_CLONE_THREAD,), mask=_CLONE_THREAD),),
    }


def _check(rule: _Rule) -> list[bytes]:
    """Instructions that fall through if the rule holds and return EPERM otherwise."""
    refuse = _instruction(_RETURN, _ERRNO | errno.EPERM)
    count = len(rule.values)
    compare = [_instruction(_EQUAL, value, count - index, 0) for index, value in enumerate(rule.values)]
    return [_load(_ARGUMENTS_AT + 8 * rule.argument), _instruction(_AND, rule.mask), *compare, refuse]


def _load(offset: int) -> bytes:
    return _instruction(_LOAD, offset)


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
