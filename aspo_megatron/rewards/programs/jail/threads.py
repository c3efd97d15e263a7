"""Bounds a program's threads where the kernel's own limit cannot.

RLIMIT_NPROC counts the processes and threads of a user, all of them, and not at all those of root; so it is of use only
where a program has a user of its own. Elsewhere the kernel asks the process that started the program before it starts a
thread, and goes on only where there is room for one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct

from . import kernel, seccomp

_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_QUESTION_BYTES = 80
_GO_ON = 1


def ask_first() -> int:
    """Have this process ask before it starts a thread; the descriptor by which it is answered. Needs `gain_nothing`."""
    return kernel.install_asking_filter(seccomp.asking("clone"))


def answer(program: int, questions: int, most: int) -> None:
    """Answer a program until it ends.

    Several threads that start others at the same instant find the same room: there are less than twice as many then.

    Args:
        program: its process, a child of this one.
        questions: the descriptor that `ask_first` has given it.
        most: threads that it may have.
    """
    end = os.pidfd_open(program)
    poll = select.poll()
    poll.register(end, select.POLLIN)
    poll.register(questions, select.POLLIN)
    running, started = True, 0
    while running:
        for descriptor, event in poll.poll():
            if descriptor == end:
                running = False
            elif event & select.POLLIN:
                started += _answer_one(questions, has_room(program, started, most))
            else:
                poll.unregister(questions)
    os.close(end)


def has_room(program: int, started: int, most: int) -> bool:
    """Whether a program may start a thread; where /proc does not show those it has, all that it has `started` count."""
    try:
        threads = len(os.listdir(f"/proc/{program}/task"))
    except OSError:
        threads = 1 + started
    return threads < most


def _answer_one(questions: int, room: bool) -> bool:
    """Whether a thread will be started."""
    question = bytearray(_QUESTION_BYTES)
    try:
        fcntl.ioctl(questions, _RECEIVE, question)
        reply = struct.pack("=8sqiI", question[:8], 0, 0 if room else -errno.EAGAIN, _GO_ON if room else 0)
        fcntl.ioctl(questions, _SEND, reply)
    except FileNotFoundError:  # it has been killed since
        return False
    return room
