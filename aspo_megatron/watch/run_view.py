"""What the folder of a run says of it: no process is asked, no lock taken and nothing written."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aspo_megatron.errors import UserError
from aspo_megatron.folders import LOGS, METRICS_FILE, RUN_CONFIG, RUN_LOCK, SAMPLES_FILE, SUMMARY_FILE
from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.alarms import Settings, run_settings
from aspo_megatron.metrics.phase_note import read_phase
from aspo_megatron.metrics.record import read_metrics
from aspo_megatron.plots.sample_file import ShownSample, parse_sample
from aspo_megatron.plots.series import Series
from aspo_megatron.reading import open_file, own_file, read_json

_TAIL_BYTES = 1 << 20
_OF_A_RUN = (RUN_CONFIG, METRICS_FILE, LOGS, RUN_LOCK)
"""What a run has begun with. Any of these is enough, also of a copy."""
_RECENT = 20
"""Steps over which speed is a mean: they cost more as responses grow."""


@dataclass(frozen=True)
class RunView:
    """A run at a time.

    Attributes:
        folder: the run's.
        records: its metrics by step, empty before the first.
        total_steps: what it was asked for; None if its configuration does not say.
        ended: it has written its summary, and no step is missing.
        seconds_since: since the last line of metrics, or before the first since anything was written; by the clock of
            this machine.
        phase: what it does now, and for how many seconds by the clock of this machine; None if that is not noted.
        samples: its last responses.
        told: what of the files could not be read.
        settings: of its configuration, as far as it could be read.
    """

    folder: Path
    records: Sequence[Mapping[str, float]]
    total_steps: int | None
    ended: bool
    seconds_since: float
    phase: tuple[str, float] | None
    samples: tuple[ShownSample, ...]
    told: tuple[str, ...]
    settings: Settings

    @property
    def name(self) -> str:
        """That of the folder."""
        return one_line(self.folder.absolute().name)

    @property
    def step(self) -> int:
        """The last that is recorded, 0 before the first."""
        return int(self.records[-1]["step"]) if self.records else 0

    @property
    def series(self) -> Series:
        """As pictures have it."""
        return Series(self.name, (self.folder,), (self.records,))

    def recent(self, metric: str, steps: int = _RECENT) -> float | None:
        """The mean of a metric over the last steps that have it; None without one."""
        values = [record[metric] for record in self.records if metric in record][-steps:]
        return sum(values) / len(values) if values else None


def read_run(folder: Path, responses: int = 0) -> RunView:
    """Look at a run.

    Args:
        folder: the run's; it need not have begun.
        responses: how many of its last responses are wanted.

    Raises:
        UserError: there is no such folder, it holds something else, or its metrics are no metrics.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{one_line(folder)}: no such folder; name the output_dir of a run")
    _refuse_other_folder(folder)
    told: list[str] = []
    metrics = own_file(folder, METRICS_FILE)
    records: list[dict[str, float]] = []
    if os.path.lexists(metrics):
        records = read_metrics(metrics, told.append)
    phase = read_phase(folder)
    settings = _settings(folder, told)
    steps = settings.get("train.steps")
    total = steps if isinstance(steps, int) and steps > 0 else None
    return RunView(
        folder,
        records,
        total,
        _has_ended(own_file(folder, SUMMARY_FILE), max(total or 0, int(records[-1]["step"]) if records else 0)),
        _seconds_since(metrics if records else folder),
        None if phase is None else (phase[0], max(0.0, time.time() - phase[1])),
        _last_samples(own_file(folder, SAMPLES_FILE), responses),
        tuple(told),
        settings,
    )


def _refuse_other_folder(folder: Path) -> None:
    """Refuse one that holds files, but none of a run; an empty one may be that of a run that is about to begin."""
    if any(os.path.lexists(folder / name) for name in _OF_A_RUN):
        return
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{one_line(folder)}: cannot be read: {error.strerror}") from error
    if not inside:
        return
    runs = [one_line(path) for path in inside if os.path.isfile(path / RUN_CONFIG)]
    hint = f"; runs in it: {', '.join(runs[:5])}" if runs else "; name the output_dir of a run"
    raise UserError(f"{one_line(folder)}: holds no run{hint}")


def mark_of(folders: Sequence[Path]) -> list[tuple[int, int, bool]]:
    """What changes when one of the runs has written metrics, or has ended: not worth another look until it does."""
    found = []
    for folder in folders:
        size, changed = 0, 0
        try:
            state = own_file(folder, METRICS_FILE).stat()
            size, changed = state.st_size, state.st_mtime_ns
        except OSError:
            pass  # it has not begun
        found.append((size, changed, os.path.lexists(own_file(folder, SUMMARY_FILE))))
    return found


def _settings(folder: Path, told: list[str]) -> Settings:
    """Of the resolved configuration; none if it cannot be read, which is told."""
    try:
        return run_settings(folder)
    except UserError as error:
        told.append(str(error))
        return Settings({}, str(folder))


def _has_ended(summary: Path, steps: int) -> bool:
    """Whether the summary is of a run of so many steps: a finished run may be gone on with for more."""
    if not os.path.lexists(summary):
        return False
    try:
        content: Any = read_json(summary)
    except UserError:
        return False
    done = content.get("steps") if isinstance(content, dict) else None
    return isinstance(done, int | float) and done >= steps


def _seconds_since(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0


def _last_samples(path: Path, count: int) -> tuple[ShownSample, ...]:
    """The last whole lines of the end of a file; what is no response is left out."""
    if not count:
        return ()
    try:
        with open_file(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).split(b"\n")
    except OSError:
        return ()
    whole = lines[1 if size > _TAIL_BYTES else 0 : -1]  # neither the end of a line, nor what is being written
    found: list[ShownSample] = []
    for line in reversed(whole):
        if len(found) == count:
            break
        try:
            found.append(parse_sample(line, one_line(path)))
        except UserError:
            continue
    return tuple(reversed(found))
