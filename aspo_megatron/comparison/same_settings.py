"""In which settings runs that are compared differ, and which of these they may differ in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.launch.run_folder import changes_no_result
from aspo_megatron.plots.figures import ABSENT

OUTPUT = "output_dir"
START = "model.path"
"""May differ from pair to pair: each seed may start from a model of its own, which all groups share."""

Kind = Literal["given", "start", "without result"]


class RunWithSettings(Protocol):
    """What is asked here of a run."""

    @property
    def folder(self) -> Path:
        """Where it is."""

    @property
    def settings(self) -> Mapping[str, str]:
        """Dotted key -> value as text."""

    @property
    def group(self) -> str:
        """Which group it belongs to."""

    @property
    def pair(self) -> str:
        """Which pair it belongs to."""


@dataclass(frozen=True)
class Allowed:
    """Settings that may differ: `by` between groups, `pair` between pairs.

    `also` are the user's: each belongs to the groups (a hyperparameter of one loss) or to the pairs (the seed of the
    data), and so has one value in each group, or in each pair.
    """

    by: str
    pair: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variation:
    """A setting that differs, and may: as the user has allowed it, as each pair's start, or without any result.

    `values` has its values by what it goes by, `by_group` says which: groups or pairs; empty where it goes by neither.
    """

    key: str
    kind: Kind
    by_group: bool
    values: Mapping[str, str]


def refuse_differences(runs: Sequence[RunWithSettings], allowed: Allowed) -> None:
    """See that runs differ in nothing but what they may.

    Raises:
        UserError: they do; names each setting, with its values in two runs.
    """
    refused = []
    for key in _differing(runs):
        if key in (allowed.by, allowed.pair, OUTPUT):
            continue
        if key == START:
            _refuse_other_starts(runs, allowed)
        elif key in allowed.also:
            if not _goes_by(key, [run.group for run in runs], runs) and not _goes_by(
                key, [run.pair for run in runs], runs
            ):
                raise UserError(
                    f"--also {one_line(key)}: it has several values within a group, and with one "
                    f"{one_line(allowed.pair)}: {_two(key, runs)}"
                )
        elif not changes_no_result(key):
            refused.append(f"{one_line(key)}: {_two(key, runs)}")
    if refused:
        raise UserError(
            f"the runs differ in more than {one_line(allowed.by)} and {one_line(allowed.pair)}:",
            *refused,
            "make runs that do not, or name each of these by --also, if it belongs to what is compared",
        )


def variations(runs: Sequence[RunWithSettings], allowed: Allowed) -> tuple[Variation, ...]:
    """The settings that differ, and may, but for the two that make groups and pairs."""
    found = []
    for key in _differing(runs):
        if key in (allowed.by, allowed.pair, OUTPUT):
            continue
        kind: Kind = "start" if key == START else "given" if key in allowed.also else "without result"
        groups, pairs = [run.group for run in runs], [run.pair for run in runs]
        by_group = _goes_by(key, groups, runs)
        values: dict[str, str] = {}
        if by_group or _goes_by(key, pairs, runs):
            values = {
                of: run.settings.get(key, ABSENT) for of, run in zip(groups if by_group else pairs, runs, strict=True)
            }
        found.append(Variation(key, kind, by_group, values))
    return tuple(found)


def _differing(runs: Sequence[RunWithSettings]) -> list[str]:
    """The settings that have several values, or are given in some runs alone."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]


def _goes_by(key: str, labels: Iterable[str], runs: Sequence[RunWithSettings]) -> bool:
    """Whether runs with one label have one value of the setting."""
    first: dict[str, str | None] = {}
    return all(
        first.setdefault(label, run.settings.get(key)) == run.settings.get(key)
        for label, run in zip(labels, runs, strict=True)
    )


def _refuse_other_starts(runs: Sequence[RunWithSettings], allowed: Allowed) -> None:
    starts: dict[str, RunWithSettings] = {}
    for run in runs:
        other = starts.setdefault(run.pair, run)
        if other.settings.get(START) != run.settings.get(START):
            raise UserError(
                f"{START}: with {one_line(allowed.pair)}={one_line(run.pair)} the groups do not start from the same "
                f"model: {_two(START, [other, run])}"
            )


def _two(key: str, runs: Sequence[RunWithSettings]) -> str:
    """The first two values of a setting, each with a run that has it."""
    first = runs[0]
    other = next(run for run in runs if run.settings.get(key) != first.settings.get(key))
    shown = [f"{_value(run.settings.get(key))} in {one_line(run.folder)}" for run in (first, other)]
    return ", ".join(shown)


def _value(value: str | None) -> str:
    return "not given" if value is None else one_line(value)
