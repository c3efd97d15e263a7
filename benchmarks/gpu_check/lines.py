"""Lines of the check: each a figure, what it was held against, and the bound."""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import torch

BYTES = ("B", "bytes")
"""Units whose numbers are written out."""
_MOST_CHARACTERS = 500
"""Of an error, in a note; all of it is in what the section has printed."""


class Status(StrEnum):
    """What became of a line. Only `PASSED` says that a GPU does what it should."""

    PASSED = "passed"
    FAILED = "failed"
    ON_CPU = "held on cpu"
    MEASURED = "measured"
    NOT_DONE = "not done"


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
        section: which part of the check it belongs to.
        name: what is shown.
        status: what became of it.
        figure: the number; None if there is none.
        unit: of the figure; empty for ratios, relative errors and counts.
        reference: what the figure was held against.
        bound: as people read it, such as `<= 0.02`; empty if nothing was asked of the figure.
        note: why it failed or was not done; other figures.
        seconds: since the line before.
    """

    section: str
    name: str
    status: Status
    figure: float | None
    unit: str
    reference: str
    bound: str
    note: str
    seconds: float


@dataclass(frozen=True)
class Place:
    """Where a section runs.

    Attributes:
        device: the first GPU, or the CPU.
        small: sizes for a test, not for a figure that says something.
        gpus: how many there are; 0 without.
        work: a folder of the section's own, for what it writes.
        seconds: how long it may take from the call of its `run` on.
    """

    device: torch.device
    small: bool
    gpus: int
    work: Path
    seconds: float

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU to show anything on."""
        return self.device.type == "cuda"


class Sheet:
    """Takes a section's lines, and writes each to a file at once, so that it outlives the process."""

    def __init__(self, section: str, path: Path, *, on_gpu: bool) -> None:
        self._section = section
        self._path = path
        self._good = Status.PASSED if on_gpu else Status.ON_CPU
        self._since = time.perf_counter()

    def at_most(
        self, name: str, figure: float, bound: float, *, reference: str, unit: str = "", note: str = ""
    ) -> bool:
        """A figure that may not be greater than `bound`; NaN fails. Gives whether it holds."""
        return self._judge(name, figure, figure <= bound, f"<= {_text(bound, unit)}", reference, unit, note)

    def at_least(
        self, name: str, figure: float, bound: float, *, reference: str, unit: str = "", note: str = ""
    ) -> bool:
        """A figure that may not be less than `bound`; NaN fails. Gives whether it holds."""
        return self._judge(name, figure, figure >= bound, f">= {_text(bound, unit)}", reference, unit, note)

    def equal(
        self, name: str, figure: float, expected: float, *, reference: str, unit: str = "", note: str = ""
    ) -> bool:
        """A figure that must be `expected`. Gives whether it is."""
        return self._judge(name, figure, figure == expected, f"= {_text(expected, unit)}", reference, unit, note)

    def holds(self, name: str, truth: bool, *, reference: str, note: str = "") -> bool:
        """Something that has no figure. Gives whether it holds."""
        self._write(name, self._good if truth else Status.FAILED, None, "", reference, "", note)
        return truth

    def measured(self, name: str, figure: float, unit: str, *, reference: str = "", note: str = "") -> None:
        """A figure of which nothing is asked."""
        self._write(name, Status.MEASURED, figure, unit, reference, "", note)

    def not_done(self, name: str, why: str) -> None:
        """What could not be shown here, and what it would take."""
        self._write(name, Status.NOT_DONE, None, "", "", "", why)

    def failed(self, name: str, why: str) -> None:
        """What went wrong before there was a figure."""
        self._write(name, Status.FAILED, None, "", "", "", why)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of a section: an error in it is a failed line, and what comes after it is shown all the same.

        Not one of a kernel, after which the process cannot use the GPU any more.
        """
        try:
            yield
        except torch.AcceleratorError:
            raise
        except Exception as error:  # of the product, of PyTorch, of a compiler: of any kind
            traceback.print_exc()
            said = str(error).strip() or "it says nothing"
            self.failed(f"{name}: runs to its end", f"{type(error).__name__}: {said[:_MOST_CHARACTERS]}")

    def _judge(self, name: str, figure: float, truth: bool, bound: str, reference: str, unit: str, note: str) -> bool:
        held = truth and not math.isnan(figure)
        self._write(name, self._good if held else Status.FAILED, figure, unit, reference, bound, note)
        return held

    def _write(
        self, name: str, status: Status, figure: float | None, unit: str, reference: str, bound: str, note: str
    ) -> None:
        now = time.perf_counter()
        figure = float(figure) if figure is not None else None
        line = Line(self._section, name, status, figure, unit, reference, bound, note, now - self._since)
        self._since = now
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(line)) + "\n")


def _text(bound: float, unit: str) -> str:
    return f"{bound:,.0f}" if unit in BYTES else f"{bound:g}"


def read_lines(path: Path) -> Iterator[Line]:
    """What a `Sheet` wrote; not a row that a process did not finish before it died."""
    for row in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if row.endswith("\n"):
            yield read_line(row)


def read_line(row: str) -> Line:
    """One of its rows."""
    fields = json.loads(row)
    return Line(**{**fields, "status": Status(fields["status"])})
