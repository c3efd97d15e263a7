"""Messages between the reward pool and its workers: over a socket for each, as frames of a length and its bytes.

The pool's end never waits, whatever a worker does: one that is stopped in the middle of a message holds up no other.
What workers send is JSON, so that bytes which a scorer writes there by mistake can do nothing but be refused.
"""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from itertools import islice
from typing import Any

_LENGTH = struct.Struct("!Q")
_CHUNK = 1 << 18
_LONGEST_ANSWER = 1 << 24
_READS_AT_THE_END = 256
_PARTS = 64


class GarbledError(Exception):
    """What came is no message."""


class WorkersEnd:
    """The worker's end, which waits.

    Its methods raise OSError when the pool is gone, or the socket was closed by a scorer.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Take over a connected socket; programs that a scorer starts do not get it."""
        connection.set_inheritable(False)
        self._socket = connection
        self._received = bytearray()

    @property
    def has_next(self) -> bool:
        """Whether a message has begun to come; if not, one may still."""
        return len(self._received) >= _LENGTH.size

    def size(self) -> int | None:
        """Wait for a message, and return its length in bytes; None if there are to be no more."""
        header = self.read(_LENGTH.size)
        return _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else None

    def read(self, size: int) -> bytearray:
        """So many bytes; less if the pool is gone."""
        while len(self._received) < size:
            chunk = self._socket.recv(_CHUNK)
            if not chunk:
                break
            self._received += chunk
        content = self._received[:size]
        del self._received[:size]
        return content

    def send(self, *messages: tuple[object, ...]) -> None:
        """Send messages: each a kind, and what belongs to it."""
        contents = [json.dumps(message).encode() for message in messages]
        self._socket.sendall(b"".join(_LENGTH.pack(len(content)) + content for content in contents))


class PoolsEnd:
    """The pool's end, which never waits. `is_closed` once the worker's end is."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._unsent: deque[memoryview] = deque()
        self._received = bytearray()
        self.is_closed = False

    def fileno(self) -> int:
        """The socket's descriptor, to be waited for."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether something is to be sent when the socket has room."""
        return bool(self._unsent)

    def send(self, content: bytes) -> None:
        """Have a message sent by `flush`."""
        self._unsent += (memoryview(_LENGTH.pack(len(content))), memoryview(content))

    def flush(self) -> None:
        """Send what there is room for."""
        while self._unsent and not self.is_closed:
            try:
                sent = self._socket.sendmsg(list(islice(self._unsent, _PARTS)))
            except BlockingIOError:
                return
            except OSError:
                self.is_closed = True
                return
            while sent and sent >= len(self._unsent[0]):
                sent -= len(self._unsent.popleft())
            if sent:
                self._unsent[0] = self._unsent[0][sent:]

    def receive(self) -> list[list[Any]]:
        """The messages that have come, or some of them: one look at the socket.

        Raises:
            GarbledError: something else has come.
        """
        self._read()
        return self._messages()

    def receive_last(self) -> list[list[Any]]:
        """All messages that have come, from a worker that has ended or will be.

        Raises:
            GarbledError: something else has come.
        """
        for _ in range(_READS_AT_THE_END):
            if not self._read():
                break
        return self._messages()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _read(self) -> bool:
        try:
            chunk = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        self._received += chunk
        self.is_closed = self.is_closed or not chunk
        return bool(chunk)

    def _messages(self) -> list[list[Any]]:
        messages = []
        start = 0
        while len(self._received) >= start + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received, start)
            if length > _LONGEST_ANSWER:
                raise GarbledError
            end = start + _LENGTH.size + length
            if len(self._received) < end:
                break
            try:
                message = json.loads(self._received[start + _LENGTH.size : end])
            except ValueError as error:
                raise GarbledError from error
            if not isinstance(message, list) or not message:
                raise GarbledError
            messages.append(message)
            start = end
        del self._received[:start]
        return messages
