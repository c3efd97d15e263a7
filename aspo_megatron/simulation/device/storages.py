"""Memory that the stand-in knows of: when it comes, and when it is gone."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable

from torch import Tensor, UntypedStorage


def key_of(tensor: Tensor) -> int:
    """Names a tensor's storage: its address, which another one may get when it is gone."""
    return int(tensor.untyped_storage()._cdata)


class Storages:
    """Storages that exist. Whoever keeps something about one is told when it is gone."""

    def __init__(self) -> None:
        self._alive: set[int] = set()
        self._gone: deque[int] = deque()
        self._told: list[Callable[[int], None]] = []

    def tell(self, gone: Callable[[int], None]) -> None:
        """Have `gone` called with the names of storages that are gone."""
        self._told.append(gone)

    def follow(self, storage: UntypedStorage) -> None:
        """Notice when a storage is gone."""
        self.settle()
        if storage._cdata not in self._alive:
            self._alive.add(storage._cdata)
            weakref.finalize(storage, self._gone.append, storage._cdata)  # it may run anywhere, so it does no more

    def settle(self) -> None:
        """Tell of storages that are gone. Before a name is used: another storage may have it now."""
        while self._gone:
            key = self._gone.popleft()
            self._alive.discard(key)
            for gone in self._told:
                gone(key)
