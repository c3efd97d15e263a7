"""Adam's state in the host's memory: while an update is made, it goes over the GPU piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aspo_megatron.parallel.device.host_memory import HostArena
from aspo_megatron.parallel.device.piece_copies import PIECE_BYTES, PIECES, Pairs, PieceCopies
from aspo_megatron.parallel.update.slots import MAIN_WEIGHT, MOMENTS, Slot, slots_of

_FP32_BYTES = 4
_ALIGNED = 128
"""Elements: PyTorch gives a GPU's memory out by 512 bytes, and kernels that take four numbers at a time want 16."""


class HostState:
    """The state of megatron's optimizers: both moments, and the fp32 weights beside those of a bf16 model.

    Between updates the GPU has nothing of it. While an update is made it comes and goes beside what the GPU computes.
    All else in an update stays megatron's: its fp32 weights keep their shape and gradient, but have no memory.
    """

    def __init__(self, device: torch.device, optimizers: Sequence[Any]) -> None:
        """Take the state of `optimizers` (no chain of them) away. They have made no update yet."""
        self._arena, self._copies = HostArena(), PieceCopies(device)
        self._places: dict[tuple[int, str], Tensor] = {}
        self._streamed: list[_StreamedAdam] = []
        for part in optimizers:
            slots = [slot for slot in slots_of(part) if slot.main is not None]
            for slot in slots:
                self._take(slot)
            streamed = _StreamedAdam(part.optimizer, slots, self, device)
            self._streamed.append(streamed)
            part.optimizer.step = streamed.step
            part._copy_main_params_to_model_params = lambda: None  # `step` does
        self._copies.mark_back()

    def value(self, slot: Slot, name: str) -> Tensor:
        """One of `MOMENTS`, or the fp32 weight, in the shape of the slot's `main`. See `wait`."""
        assert slot.main is not None
        return self._places.get((id(slot.main), name), slot.main)

    def stand_at(self, updates: int) -> None:
        """The state is that after so many updates. Before the first the moments have no values."""
        for streamed in self._streamed:
            streamed.updates = updates

    def wait(self) -> None:
        """Until the state of the last update is there: before the host reads any of it, or writes it."""
        self._copies.wait()

    def run(self, pieces: Sequence[_Piece]) -> None:
        """Bring pieces to the GPU, change them, and take them back."""
        self._copies.run(pieces)

    @torch.no_grad()
    def _take(self, slot: Slot) -> None:
        assert slot.main is not None
        for name in _names(slot):
            self._places[id(slot.main), name] = self._arena.empty(slot.main.shape, torch.float32)
        if slot.separate:
            self.value(slot, MAIN_WEIGHT).copy_(slot.main, non_blocking=True)
            slot.main.untyped_storage().resize_(0)


@dataclass(frozen=True)
class _Slice:
    """Elements start..stop of a slot's `main`, of Adam's `group`, which are at `at` in each row of their piece.

    A parameter may be larger than a piece: Adam treats each element by itself. `home`: its state, by name, on the host.
    """

    slot: Slot
    group: int
    start: int
    stop: int
    at: int
    home: dict[str, Tensor]

    @property
    def main(self) -> Tensor:
        """Of a weight that Adam updates where it is."""
        assert self.slot.main is not None
        return self.of(self.slot.main)

    @property
    def gradient(self) -> Tensor:
        """As megatron has prepared it."""
        assert self.slot.main is not None
        assert self.slot.main.grad is not None
        return self.of(self.slot.main.grad)

    @property
    def end(self) -> int:
        """In a row."""
        return self.at + self.stop - self.start

    def of(self, whole: Tensor) -> Tensor:
        """Its part of a tensor in the shape of the slot's `main`."""
        return whole.detach().view(-1)[self.start : self.stop]

    def of_parameter(self) -> Tensor:
        """Its part of the model's weight."""
        start = self.slot.start
        return self.slot.parameter.detach().view(-1)[start + self.start : start + self.stop]

    def in_rows(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Its part of each row that it has state in."""
        return {name: rows[name][self.at : self.end] for name in self.home}


class _StreamedAdam:
    """The `step` of one Adam, whose state is in a `HostState`.

    Any that keeps a parameter's moments in `state`, and the number of a step there or in its groups: PyTorch's,
    Transformer Engine's, Apex's. It is given slices in place of its parameters.
    """

    def __init__(self, adam: Any, slots: Sequence[Slot], home: HostState, device: torch.device) -> None:
        self.updates = 0
        self._home, self._adam, self._device = home, adam, device
        self._names = (*MOMENTS, MAIN_WEIGHT) if any(slot.separate for slot in slots) else MOMENTS
        groups = {id(main): number for number, group in enumerate(adam.param_groups) for main in group["params"]}
        row = max(PIECE_BYTES // (_FP32_BYTES * len(self._names) * _ALIGNED), 1) * _ALIGNED
        self._pieces = _cut(slots, groups, row, home)
        self._row = min(row, max((-(-part[-1].end // _ALIGNED) * _ALIGNED for part in self._pieces), default=0))
        self._counted: dict[int, dict[str, Any]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Adam's step, and the weights of a bf16 model out of the fp32 ones."""
        shape = len(self._names), self._row
        rooms = [torch.empty(shape, dtype=torch.float32, device=self._device) for _ in self._pieces[:PIECES]]
        rows = [dict(zip(self._names, room, strict=True)) for room in rooms]
        self._home.run(
            [_Piece(self, slices, rows[number % PIECES]) for number, slices in enumerate(self._pieces)],
        )
        for number, counts in self._counted.items():  # all pieces have begun with those of the last update
            self._adam.param_groups[number].update(counts)
        self.updates += 1

    def change(self, slices: Sequence[_Slice], parts: Sequence[dict[str, Tensor]]) -> None:
        """One step for these slices alone, whose state is in `parts`, by name."""
        mains = [
            part[MAIN_WEIGHT] if each.slot.separate else each.main for each, part in zip(slices, parts, strict=True)
        ]
        steps = torch.full((len(slices),), float(self.updates), dtype=torch.float32, device=self._device).unbind()
        adam, whole = self._adam, self._adam.param_groups
        groups: dict[int, dict[str, Any]] = {}
        for each, part, main, step in zip(slices, parts, mains, steps, strict=True):
            main.grad = each.gradient
            adam.state[main] = {name: part[name] for name in MOMENTS}
            if isinstance(adam, torch.optim.Adam):  # the others count in their groups
                adam.state[main]["step"] = step
            groups.setdefault(each.group, {**whole[each.group], "params": []})["params"].append(main)
        adam.param_groups = list(groups.values())
        try:
            type(adam).step(adam)
        finally:
            adam.param_groups = whole
        for each, main in zip(slices, mains, strict=True):
            del adam.state[main]
            if each.slot.separate:
                each.of_parameter().copy_(main)
        for number, group in groups.items():
            self._counted[number] = {key: value for key, value in group.items() if key != "params"}


class _Piece:
    """Slices of one Adam's state, and their rows on the GPU. See `piece_copies.Piece`."""

    def __init__(self, adam: _StreamedAdam, slices: Sequence[_Slice], rows: dict[str, Tensor]) -> None:
        self.rows = rows
        self._adam, self._slices = adam, slices
        self._parts = [each.in_rows(rows) for each in slices]

    def coming(self) -> Pairs:
        """Before the first update there are no moments."""
        names = self.rows if self._adam.updates else (MAIN_WEIGHT,)
        return self._pairs(names)

    def change(self) -> None:
        """Adam's step."""
        for name in () if self._adam.updates else MOMENTS:
            self.rows[name].zero_()
        self._adam.change(self._slices, self._parts)

    def going(self) -> Pairs:
        """All of it."""
        return ((home, part) for part, home in self._pairs(self.rows))

    def _pairs(self, names: Iterable[str]) -> Pairs:
        for name in names:
            for each, part in zip(self._slices, self._parts, strict=True):
                if name in part:
                    yield part[name], each.home[name]


def _cut(slots: Sequence[Slot], groups: dict[int, int], row: int, home: HostState) -> list[list[_Slice]]:
    """Pieces of at most `row` elements, in the order of the slots. `groups`: Adam's, by the `id` of a `main`."""
    pieces: list[list[_Slice]] = []
    at = row
    for slot in slots:
        assert slot.main is not None
        start, size = 0, slot.main.numel()
        state = {name: home.value(slot, name).view(-1) for name in _names(slot)}
        while start < size:
            if at >= row:
                pieces.append([])
                at = 0
            stop = min(size, start + row - at)
            parts = {name: whole[start:stop] for name, whole in state.items()}
            pieces[-1].append(_Slice(slot, groups[id(slot.main)], start, stop, at, parts))
            at = -(-pieces[-1][-1].end // _ALIGNED) * _ALIGNED
            start = stop
    return pieces


def _names(slot: Slot) -> tuple[str, ...]:
    """Of a slot's state that has its place on the host."""
    return (*MOMENTS, MAIN_WEIGHT) if slot.separate else MOMENTS
