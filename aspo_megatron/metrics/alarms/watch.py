"""Follows a run's lines, step by step, and says which alarms they raise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aspo_megatron.config import RunConfig
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.alarms.alarm import Alarm, Level
from aspo_megatron.metrics.alarms.course import Course
from aspo_megatron.metrics.alarms.settings import Settings, run_settings
from aspo_megatron.metrics.alarms.table import ALARMS

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Raised:
    """An alarm that a run raised.

    Attributes:
        step: in which it was raised first.
        name: of the alarm, a few words.
        metric: that shows it, as metrics.jsonl calls it; `eval/avg@K` stands for those of any K.
        what: is wrong, as it was in that step.
        cure: what to do.
        collapse: whether it says that the run gets worse; else that it learns nothing.
    """

    step: int
    name: str
    metric: str
    what: str
    cure: str
    collapse: bool

    @property
    def line(self) -> str:
        """What is wrong, and what to do."""
        return f"{self.what}: {self.cure}"


@dataclass
class _Count:
    """Of one alarm: steps in a row that it has shown, whether it is raised, after how many steps it is said next."""

    lasted: int = 0
    raised: bool = False
    next_said: int = 0


@dataclass(frozen=True)
class _On:
    """A raised alarm after a step. `said`: it is time to say so."""

    alarm: Alarm
    level: Level
    lasted: int
    said: bool


class _Watch:
    """Is told a run's lines in their order. What it answers depends on nothing else."""

    def __init__(self) -> None:
        self.course = Course()
        self.steps = 0
        self._counts = [_Count() for _ in ALARMS]

    def after(self, record: Figures) -> list[_On]:
        """The alarms that are raised after a step that trained; none after an evaluation alone."""
        if not self.course.add(record):
            return []
        self.steps += 1
        return [on for alarm, count in zip(ALARMS, self._counts, strict=True) if (on := self._after(alarm, count))]

    def _after(self, alarm: Alarm, count: _Count) -> _On | None:
        level = alarm.level(self.course)
        if level is Level.NONE:
            count.lasted, count.raised = 0, False
            return None
        count.lasted += 1
        if not count.raised and (level is Level.EXTREME or count.lasted >= alarm.first):
            count.raised, count.next_said = True, count.lasted
        if not count.raised:
            return None
        said = count.lasted == count.next_said
        if said:
            count.next_said *= 2
        return _On(alarm, level, count.lasted, said)


class Alarms:
    """Says what is wrong with one run, whose steps it is told in their order."""

    def __init__(self, config: RunConfig) -> None:
        """With `log.alarms` off, nothing is wrong."""
        self._settings, self._watch = Settings.of(config), _Watch()

    def go_on_after(self, records: Sequence[Figures]) -> None:
        """What a run that resumes has recorded by then: said already, and what later steps are compared with."""
        for record in records:
            self._watch.after(record)

    def after(self, step: int, figures: Figures) -> list[str]:
        """What is to be said after a step, given its figures as metrics.jsonl has them: lines, most often none.

        An alarm that lasts is said again each time that it has lasted twice as long. An evaluation by itself, which
        belongs to no step, is told in the same way; nothing is said of it.
        """
        lines = self._lines(step, {"step": step, **figures})
        return [one_line(line) for line in lines] if self._settings.alarms else []

    def _lines(self, step: int, figures: Figures) -> Iterator[str]:
        course = self._watch.course
        for on in self._watch.after(figures):
            if on.said:
                since = f"step {step}" if on.lasted == 1 else f"steps {step - on.lasted + 1} to {step}"
                yield f"warning: {since}: {on.alarm.what(course)}: {on.alarm.cure(course, self._settings)}"


def alarms_of(records: Sequence[Figures], settings: Settings | None = None) -> list[Raised]:
    """The alarms that a run raised, each where it was raised first, by step.

    Args:
        records: the lines of metrics.jsonl, by step, as `read_metrics` gives them.
        settings: of the run, which the cures name; None if they are not known.

    Returns:
        An empty list if `log.alarms` is off in the settings.
    """
    settings = settings or Settings({})
    watch, found = _Watch(), dict[str, Raised]()
    for record in records if settings.alarms else ():
        for on in watch.after(record):
            if (alarm := on.alarm).name not in found:
                what, cure = one_line(alarm.what(watch.course)), one_line(alarm.cure(watch.course, settings))
                step = int(record.get("step", watch.steps))
                found[alarm.name] = Raised(step, alarm.name, alarm.metric, what, cure, alarm.collapse)
    return list(found.values())


def alarms_of_run(folder: Path, records: Sequence[Figures]) -> list[Raised]:
    """As `alarms_of`, with the settings of the run's folder, as far as they can be read."""
    try:
        settings = run_settings(folder)
    except UserError:  # those that need them say so
        settings = Settings({}, str(folder))
    return alarms_of(records, settings)


def standing(records: Sequence[Figures]) -> dict[str, str]:
    """What is wrong with a run after its last step: lines by the alarm's name.

    Without what to do, and without what may be the bad luck of this step.
    """
    watch = _Watch()
    on: list[_On] = []
    for record in records:
        found = watch.after(record)
        if "reward/mean" in record:
            on = found
    sure = [one for one in on if one.lasted > 1 or one.level is Level.EXTREME]
    return {one.alarm.name: one_line(_standing_line(one, watch.course)) for one in sure}


def _standing_line(on: _On, course: Course) -> str:
    since = "in the last step" if on.lasted == 1 else f"for {on.lasted} steps"
    return f"{since} {on.alarm.what(course)}"
