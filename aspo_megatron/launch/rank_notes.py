"""Where ranks leave their notes: in memory that they share with their launcher, or in torch's store."""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

_VARIABLE = "ASPO_RANK_BOARD"
_PLACE_BYTES = 4096
_HEAD_BYTES = 8  # check and length


class SharedBoard:
    """Memory of this machine, without a name: it ends with the processes that have it.

    Each rank has two places and writes them in turn, so that one is whole even if the rank is stopped while it writes.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._memory = mmap.mmap(descriptor, 2 * size * _PLACE_BYTES)
        self._turn = 0

    @classmethod
    def create(cls, size: int) -> tuple[SharedBoard, int]:
        """A board for `size` ranks, and the descriptor by which they open it."""
        descriptor = os.memfd_create("aspo-ranks")
        os.truncate(descriptor, 2 * size * _PLACE_BYTES)
        return cls(descriptor, size), descriptor

    @staticmethod
    def environment(descriptor: int) -> dict[str, str]:
        """What tells a rank of the board; it also inherits the descriptor."""
        return {_VARIABLE: str(descriptor)}

    @classmethod
    def given(cls, env: Mapping[str, str], size: int) -> SharedBoard | None:
        """The board that the launcher has made; None without a launcher."""
        return cls(int(env[_VARIABLE]), size) if _VARIABLE in env else None

    def write(self, rank: int, note: bytes) -> None:
        """Replace the note of `rank`."""
        start = (2 * rank + self._turn) * _PLACE_BYTES
        self._turn = 1 - self._turn
        whole = zlib.crc32(note).to_bytes(4) + len(note).to_bytes(4) + note
        assert len(whole) <= _PLACE_BYTES
        self._memory[start : start + len(whole)] = whole

    def read(self, rank: int) -> bytes | None:
        """The latest whole note of `rank`."""
        notes = [note for turn in range(2) if (note := self._whole((2 * rank + turn) * _PLACE_BYTES)) is not None]
        return max(notes, key=_beat, default=None)

    def _whole(self, start: int) -> bytes | None:
        place = self._memory[start : start + _PLACE_BYTES]
        check, size = int.from_bytes(place[:4]), int.from_bytes(place[4:_HEAD_BYTES])
        note = place[_HEAD_BYTES : _HEAD_BYTES + size]
        return note if size and zlib.crc32(note) == check else None


class StoreBoard:
    """Torch's store, which rank 0 (or torchrun) holds, over a connection of its own."""

    def __init__(self, store: TCPStore, attempt: str) -> None:
        """`attempt`: of the ranks of torchrun, whose store outlives them."""
        self._store, self._attempt = store, attempt

    def write(self, rank: int, note: bytes) -> None:
        """Replace the note of `rank`."""
        self._store.set(self._key(rank), note.decode())

    def read(self, rank: int) -> bytes | None:
        """The note of `rank`; None if there is none."""
        key = self._key(rank)
        return self._store.get(key) if self._store.check([key]) else None

    def _key(self, rank: int) -> str:
        return f"aspo/{self._attempt}/rank/{rank}"


def _beat(note: bytes) -> int:
    import json

    beat: int = json.loads(note)["beat"]
    return beat
