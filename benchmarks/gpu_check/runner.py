"""Runs the sections one after another, each in a process of its own, and takes their lines as they come."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu_check.child import Task
from benchmarks.gpu_check.lines import Line, Status, read_line
from benchmarks.gpu_check.processes import StuckError, adopting, how_it_ended, process_of
from benchmarks.gpu_check.sections import Section

_POLL_SECONDS = 0.1
_LEAST_SHARE = 0.25
"""Of its time limit: with less of the budget left a section is not begun."""
_LAST_LINES = 12
_CPU_TIME = 3.0
"""Times a section's limit: what its small form may take on a CPU, which may be slow or busy."""


@dataclass(frozen=True)
class Plan:
    """What is run, and where.

    Attributes:
        sections: in this order.
        out: takes a folder for each section.
        cpu: the small form, on the CPU.
        gpus: how many there are; 0 with `cpu`.
        budget: seconds for all sections.
        env: of their processes.
    """

    sections: Sequence[Section]
    out: Path
    cpu: bool
    gpus: int
    budget: float
    env: Mapping[str, str]


@dataclass
class Outcome:
    """All lines, in order.

    Attributes:
        lines: of all sections.
        unfinished: names of sections that did not run to their end for lack of time or of GPUs.
        interrupted: the user ended the check.
        seconds: all of it.
    """

    lines: list[Line] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0


def run_sections(plan: Plan, show: Callable[[Line], None], keep: Callable[[Outcome], object] | None = None) -> Outcome:
    """Run `plan`; each line is handed to `show` as it comes. Ctrl-C ends it, and what was shown until then stays.

    `keep` is given what there is after each section.
    """
    outcome, start = Outcome(), time.monotonic()

    def take(line: Line) -> None:
        outcome.lines.append(line)
        show(line)

    def not_done(section: Section, why: str) -> None:
        outcome.unfinished.append(section.name)
        take(_line(section, section.title, Status.NOT_DONE, why))

    waiting = list(plan.sections)
    try:
        with adopting():
            while waiting:
                left = plan.budget - (time.monotonic() - start)
                lack = _lack(waiting[0], plan, left)
                if lack:
                    not_done(waiting[0], lack)
                elif not _run_section(waiting[0], plan, left, take):
                    outcome.unfinished.append(waiting[0].name)
                waiting.pop(0)
                outcome.seconds = time.monotonic() - start
                if keep is not None:
                    keep(outcome)
    except KeyboardInterrupt:
        outcome.interrupted = True
        for section in waiting:
            not_done(section, "interrupted")
    outcome.seconds = time.monotonic() - start
    return outcome


def _lack(section: Section, plan: Plan, left: float) -> str | None:
    """Why a section is not begun."""
    if plan.gpus < section.gpus and not plan.cpu:
        return f"needs {section.gpus} GPUs, {plan.gpus} here"
    limit = _limit(section, plan)
    if left < _LEAST_SHARE * limit:
        return f"no time: {max(left, 0):.0f} of {plan.budget:.0f} s are left, and it may take {limit:.0f}"
    return None


def _limit(section: Section, plan: Plan) -> float:
    return section.seconds * (_CPU_TIME if plan.cpu else 1.0)


def _run_section(section: Section, plan: Plan, left: float, take: Callable[[Line], None]) -> bool:
    """Run one; False if the budget ended before it did. What kills it is a line."""
    folder = plan.out / "sections" / section.name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "work").mkdir(parents=True)
    longest = _limit(section, plan)
    limit = min(longest, left)
    task = Task.of(section, folder, cpu=plan.cpu, gpus=plan.gpus, seconds=limit)
    start, rows, good = time.monotonic(), _Rows(Path(task.lines)), True
    code: int | None = None
    try:
        with process_of(task.command(os.getpid()), dict(plan.env), folder / "output.txt") as process:
            while code is None and time.monotonic() - start < limit:
                time.sleep(_POLL_SECONDS)
                code = process.poll()
                for line in rows.new():
                    good = good and line.status is not Status.FAILED
                    take(line)
    except StuckError as error:
        take(_line(section, "processes end", Status.FAILED, str(error)))
        good = False
    finally:  # of an interrupt, too
        for line in rows.new():
            take(line)
    spent = time.monotonic() - start
    if code is None and limit < longest:
        take(_line(section, "the rest of it", Status.NOT_DONE, f"no time: {plan.budget:.0f} s are over", spent))
        return False
    why = f"not finished after {limit:.0f} s" if code is None else how_it_ended(code)
    if code != 0:
        why += _last_lines(folder / "output.txt")
        take(_line(section, "runs to its end", Status.FAILED, why, spent))
    elif not rows.count:
        take(_line(section, "shows something", Status.FAILED, "it ended without a line", spent))
    elif good:
        shutil.rmtree(folder / "work", ignore_errors=True)
    return True


class _Rows:
    """The rows of a file that another process writes."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0
        self.count = 0

    def new(self) -> Iterator[Line]:
        """Those that were finished since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            for row in file:
                if row.endswith(b"\n"):
                    self._read += len(row)
                    self.count += 1
                    yield read_line(row.decode())


def _last_lines(output: Path) -> str:
    """The end of what a section printed, for a note."""
    rows = [row for row in output.read_text(encoding="utf-8", errors="replace").splitlines() if row.strip()]
    return "".join(f"\n{row}" for row in rows[-_LAST_LINES:])


def _line(section: Section, name: str, status: Status, why: str, seconds: float = 0.0) -> Line:
    return Line(section.name, name, status, None, "", "", "", why, seconds)
