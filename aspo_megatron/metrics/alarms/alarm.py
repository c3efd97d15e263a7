"""What an alarm is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from aspo_megatron.metrics.alarms.course import Course
from aspo_megatron.metrics.alarms.settings import Settings


class Level(IntEnum):
    """How bad it is in a step."""

    NONE = 0
    HIGH = 1
    """Bad if it lasts."""
    EXTREME = 2
    """Bad even if it is one step."""


@dataclass(frozen=True)
class Alarm:
    """One kind of trouble.

    Attributes:
        name: a few words, unlike those of the others.
        metric: that shows it.
        level: how bad it is in the last step of a course.
        first: steps in a row of level HIGH before it is raised; one of level EXTREME raises it at once.
        what: is wrong, in a line without what to do.
        cure: what to do, with the settings of the run.
        when: it is raised: the rule in words, for people.
        why: it is one, for people.
        collapse: whether it says that the run gets worse; else that it learns nothing.
        advice: what to do in general, for people, where the cure depends on the figures.
    """

    name: str
    metric: str
    level: Callable[[Course], Level]
    first: int
    what: Callable[[Course], str]
    cure: Callable[[Course, Settings], str]
    when: str
    why: str
    collapse: bool = True
    advice: str = ""


def level_of(value: float | None, high: float, at_once: float) -> Level:
    """The level of a value that is bad when it is large; none for one that is absent."""
    if value is None or not value >= high:
        return Level.NONE
    return Level.EXTREME if value >= at_once else Level.HIGH
