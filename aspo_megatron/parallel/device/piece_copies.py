"""Pieces of the host's page-locked memory, brought to a GPU, changed there and taken back, beside what it computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

PIECES = 3
"""On the GPU at once: one comes, one is computed with, one goes."""
PIECE_BYTES = 256 << 20
"""Of a piece: 5 ms of copying at 55 GB/s, against some 10 microseconds to begin a copy."""
_AHEAD = PIECES - 1

Pairs = Iterable[tuple[Tensor, Tensor]]
"""Where to copy to, and what. One is in page-locked memory, the other on the GPU."""
Mark = torch.cuda.Event | None
"""How far a stream is; None on a CPU, where all is done as it is asked for."""


class Piece(Protocol):
    """What comes and goes together. It may have the memory on the GPU of that which comes `PIECES` places before."""

    def coming(self) -> Pairs:
        """What is copied to the GPU."""

    def change(self) -> None:
        """Compute with it."""

    def going(self) -> Pairs:
        """What is copied back."""


class PieceCopies:
    """A stream of copies for each direction. On a CPU they are ordinary copies. The host waits only in `wait`."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_gpu = device, device.type != "cpu"
        self._coming, self._going = (torch.cuda.Stream(device) if self._on_gpu else None for _ in range(2))
        self._back: Mark = None

    def run(self, pieces: Sequence[Piece]) -> None:
        """Change all pieces, in their order. What the GPU is given to do next comes after the last copy.

        A copy is given to its stream after the work that it waits for, and two pieces ahead of its use. So both
        directions run at once, also where all streams share one queue (`CUDA_DEVICE_MAX_CONNECTIONS=1`).
        """
        begun, there, back = self._now(), list[Mark](), list[Mark]()

        def bring(number: int) -> None:
            after = begun if number < PIECES else back[number - PIECES]
            there.append(self._copy(self._coming, pieces[number].coming(), after))

        for number in range(min(_AHEAD, len(pieces))):
            bring(number)
        for number, piece in enumerate(pieces):
            self._compute_after(there[number])
            piece.change()
            back.append(self._copy(self._going, piece.going(), self._now()))
            if number + _AHEAD < len(pieces):
                bring(number + _AHEAD)
        if back:
            self._compute_after(back[-1])
        self.mark_back()

    def mark_back(self) -> None:
        """Have `wait` wait for what the GPU has been given to do so far."""
        self._back = self._now()

    def wait(self) -> None:
        """Until all is back: before the host reads it, or writes it."""
        if self._back is not None:
            self._back.synchronize()

    def _copy(self, stream: torch.cuda.Stream | None, pairs: Pairs, after: Mark) -> Mark:
        if stream is None or after is None:
            for target, source in pairs:
                target.copy_(source)
            return None
        stream.wait_event(after)
        with torch.cuda.stream(stream):
            for target, source in pairs:
                target.copy_(source, non_blocking=True)
        return _mark(stream)

    def _now(self) -> Mark:
        return _mark(torch.cuda.current_stream(self._device)) if self._on_gpu else None

    def _compute_after(self, mark: Mark) -> None:
        if mark is not None:
            torch.cuda.current_stream(self._device).wait_event(mark)


def _mark(stream: torch.cuda.Stream) -> torch.cuda.Event:
    mark = torch.cuda.Event()
    mark.record(stream)
    return mark
