"""A progress display whose phases are also noted where other ranks can read them."""

from __future__ import annotations

from typing import Self

from aspo_megatron.launch.rank_status import RankStatus
from aspo_megatron.metrics.progress import ProgressDisplay

_AFTER_STEPS = ("save", "export")


class NotedProgress:
    """Shows on `display`, on every rank, what `display` shows; notes it with the step it belongs to."""

    def __init__(self, display: ProgressDisplay, rank_status: RankStatus) -> None:
        self._display, self._rank_status = display, rank_status
        self._done: int | None = None

    def __enter__(self) -> Self:
        """Start to show."""
        self._display.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop to show."""
        self._display.__exit__(*exception)

    def stands_at(self, step: int) -> None:
        """Steps begin now, after `step`."""
        self._done = step

    def phase(self, label: str) -> None:
        """Say and note what is being done now."""
        if self._done is None:
            text = label
        elif label in _AFTER_STEPS:
            text = f"{label} after step {self._done}"
        else:
            text = f"step {self._done + 1}, {label}"
        self._rank_status.phase(text)
        self._display.phase(label)

    def update(self, step: int, *, reward: float, tokens_per_second: float, heldout: float | None = None) -> None:
        """Step `step` is done."""
        self._done = step
        self._display.update(step, reward=reward, tokens_per_second=tokens_per_second, heldout=heldout)

    def message(self, text: str) -> None:
        """Show a line that stays."""
        self._display.message(text)
