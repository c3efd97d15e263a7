"""What a rank does in each phase of a step: the ledger's figures, stretch by stretch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from torch import Tensor

from aspo_megatron.simulation.device.ledger import Figures, Ledger


class Phase(StrEnum):
    """The phases of a step, in their order."""

    HELD = "always there"
    SYNC = "weight sync"
    GENERATION = "generation"
    SCORING = "old log-probs"
    REFERENCE = "reference's pass"
    FORWARD = "update: forward"
    BACKWARD = "update: backward"
    EMBEDDING = "update: gradient of embedding"
    OPTIMIZER = "update: optimizer's step"
    SAVE = "save"


class Phases:
    """Figures by phase. One that is entered several times has the sums of its counts, and the largest of its peaks."""

    def __init__(self, ledger: Ledger) -> None:
        self.figures: dict[Phase, Figures] = {}
        self._ledger = ledger
        self._now: Phase | None = None
        ledger.clear()

    def enter(self, phase: Phase | None) -> None:
        """What comes next is of this phase; of none: it is not counted."""
        if phase is self._now:
            return
        if self._now is not None:
            self.figures.setdefault(self._now, Figures()).add(self._ledger.figures())
        self._ledger.clear()
        self._now = phase

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """The block is of this phase, but for phases that are entered inside of it."""
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(None)

    @contextmanager
    def inside(self, chunks: Any, optimizer: Any) -> Iterator[None]:
        """Tell the phases of an update apart: hooks on the model's chunks say where it is."""

        def on_forward(*_: Any) -> None:
            self.enter(Phase.FORWARD)

        def on_output(_: Any, __: Any, output: Any) -> None:
            _when_backward_reaches(output, lambda: self.enter(Phase.BACKWARD))

        def on_embedding(_: Any, __: Any, output: Any) -> None:
            _when_backward_reaches(output, lambda: self.enter(Phase.EMBEDDING))

        hooks = []
        for chunk in chunks:
            hooks += [chunk.register_forward_pre_hook(on_forward), chunk.register_forward_hook(on_output)]
            if chunk.is_first:
                hooks.append(chunk.embedding.register_forward_hook(on_embedding))
        optimizer.update_after(lambda: self.enter(Phase.OPTIMIZER))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _when_backward_reaches(output: Any, call: Any) -> None:
    """Call when a gradient comes to a module's output."""
    for tensor in output if isinstance(output, tuple) else (output,):
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            tensor.register_hook(lambda _: call())
