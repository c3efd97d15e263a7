"""Which runs of a comparison raised an alarm of a collapse, and whether their accuracy fell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aspo_megatron.comparison.page import Section, Table
from aspo_megatron.comparison.quantities import accuracy_metric
from aspo_megatron.comparison.runs import Comparison
from aspo_megatron.foreign_text import counted, markdown
from aspo_megatron.metrics.alarms import Raised, alarms_of_run, run_settings

_UNKNOWN = "-"


@dataclass(frozen=True)
class Collapse:
    """A run that raised an alarm of a collapse: its group and pair, and its first such alarm.

    Attributes:
        best: the highest held-out accuracy before the alarm's step; None without an evaluation.
        lowest: the lowest accuracy from that step on.
    """

    group: str
    pair: str
    alarm: Raised
    best: float | None
    lowest: float | None


def collapses(comparison: Comparison) -> list[Collapse]:
    """The runs that raised one, in their order; none of those with `log.alarms` off."""
    accuracy, found = accuracy_metric(comparison.groups), []
    for group in comparison.groups:
        for pair, folder, records in zip(comparison.pairs, group.folders, group.runs, strict=True):
            alarm = next((one for one in alarms_of_run(folder, records) if one.collapse), None)
            if alarm is not None:
                known = [(one["step"], one[accuracy]) for one in records if accuracy is not None and accuracy in one]
                before = [value for step, value in known if step < alarm.step]
                after = [value for step, value in known if step >= alarm.step]
                best, lowest = max(before, default=None), min(after, default=None)
                found.append(Collapse(group.name, pair, alarm, best, lowest))
    return found


def alarms_section(comparison: Comparison) -> Section:
    """How many runs raised an alarm of a collapse, and which."""
    watched = sum(run_settings(folder).alarms for group in comparison.groups for folder in group.folders)
    if not watched:
        return Section("Alarms", (markdown("All runs have log.alarms off."),))
    found = collapses(comparison)
    many = f"{len(found) or 'None'} of {counted(watched, 'run')} raised an alarm of a collapse"
    if not found:
        return Section("Alarms", (markdown(f"{many}."),))
    by_group = ", ".join(f"{sum(one.group == name for one in found)} of {name}" for name in comparison.names)
    head = (comparison.by, comparison.pair_noun, "alarm", "step", "best accuracy before", "lowest from then on")
    table = Table(head, tuple(map(_row, found)), names=3)
    note = "The first alarm of each such run. Accuracies are those of the evaluations."
    return Section("Alarms", (markdown(f"{many}: {by_group}."), table.markdown(), note))


def _row(one: Collapse) -> tuple[str, ...]:
    shown: Sequence[str] = [_UNKNOWN if value is None else f"{value:.1%}" for value in (one.best, one.lowest)]
    return (one.group, one.pair, one.alarm.name, str(one.alarm.step), *shown)
