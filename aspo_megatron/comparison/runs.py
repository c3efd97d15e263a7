"""Runs in groups and pairs: read from their folders, and refused where they differ in more than is compared."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aspo_megatron.comparison.folders import run_folders
from aspo_megatron.comparison.same_settings import Allowed, Variation, refuse_differences, variations
from aspo_megatron.comparison.statistics import pairs_needed
from aspo_megatron.errors import UserError
from aspo_megatron.folders import METRICS_FILE, RUN_CONFIG
from aspo_megatron.foreign_text import counted, one_line
from aspo_megatron.metrics.damaged_lines import named
from aspo_megatron.metrics.record import read_metrics
from aspo_megatron.plots.figures import run_settings
from aspo_megatron.plots.series import Series
from aspo_megatron.reading import own_file

USUAL_BASELINE = "grpo"
"""The group that the others are compared with, where there is one of this name and none is asked for."""

_LOSS = "loss.name"
_STEPS = "train.steps"
_EVALUATED = "eval/avg@"


@dataclass(frozen=True)
class Run:
    """A run with its settings (dotted key -> value as text), and which group and pair it belongs to."""

    folder: Path
    settings: Mapping[str, str]
    records: Sequence[Mapping[str, float]]
    group: str
    pair: str

    @property
    def name(self) -> str:
        """Its folder, for a place in a line."""
        return one_line(self.folder)

    @property
    def last_step(self) -> int:
        """How far it has come."""
        return int(self.records[-1]["step"]) if self.records else 0


@dataclass(frozen=True)
class Comparison:
    """Groups of runs that differ in one setting, each with one run for every pair.

    Attributes:
        by: the setting that groups differ in.
        pair: the setting by which runs of different groups are paired.
        groups: of each, its name and its runs in the order of `pairs`.
        pairs: the values of `pair`.
        baseline: the name of the group that the others are compared with.
        settings: those that all runs have alike.
        variations: other settings that differ, and may.
        left_out: what is not compared, in sentences.
    """

    by: str
    pair: str
    groups: tuple[Series, ...]
    pairs: tuple[str, ...]
    baseline: str
    settings: Mapping[str, str]
    variations: tuple[Variation, ...]
    left_out: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the groups."""
        return tuple(group.name for group in self.groups)

    @property
    def pair_noun(self) -> str:
        """What a pair is called: a seed if it is one."""
        return "seed" if self.pair.rpartition(".")[2] == "seed" else "pair"

    def those_pairs(self, pairs: Sequence[str]) -> str:
        """Some pairs, by the setting and its values."""
        return _those(self.pair, pairs)


def read_comparison(
    places: Sequence[Path],
    by: str = _LOSS,
    pair: str = "seed",
    against: str | None = None,
    also: Sequence[str] = (),
    *,
    incomplete: bool = False,
) -> Comparison:
    """Read runs, and see that they can be compared.

    Args:
        places: see `run_folders`.
        by: the setting that groups differ in.
        pair: the setting by which runs of different groups are paired.
        against: the baseline, by its value of `by`; None for `USUAL_BASELINE` if it is there, else the first group.
        also: further settings that may differ, see `Allowed`.
        incomplete: leave out pairs of which a run is missing or not finished.

    Raises:
        UserError: a file cannot be read, a setting is unknown, two runs have one place, runs differ in more than they
            may, some are missing or not finished, or there are fewer than two groups or pairs. Names them.
    """
    if by == pair:
        raise UserError(f"--by {one_line(by)}: --pair is the same setting; runs are paired by another, such as seed")
    runs = _read(run_folders(places), by, pair, also)
    placed = _placed(runs, by, pair)
    groups = list(dict.fromkeys(run.group for run in runs))
    if len(groups) < 2:
        value = one_line(runs[0].settings[by])
        raise UserError(f"--by {one_line(by)}: {value} in all runs, so there are no groups to compare")
    baseline = _baseline(groups, against)
    lacking = _lacking(placed, groups, pair)
    if lacking and not incomplete:
        reasons = [f"{reason}; {advice}" for reason, advice in lacking.values()]
        raise UserError(*reasons, f"--incomplete compares without {_those(pair, list(lacking))}, in all groups")
    pairs = _enough({run.pair for run in runs} - lacking.keys(), groups, pair)
    rows = [[placed[group, one] for one in pairs] for group in groups]
    compared = [run for row in rows for run in row]
    allowed = Allowed(by, pair, tuple(also))
    refuse_differences(compared, allowed)
    _refuse_other_steps(compared)
    shared = {key: value for key, value in compared[0].settings.items() if _is_shared(key, value, compared)}
    return Comparison(
        by,
        pair,
        tuple(
            Series(group, tuple(run.folder for run in row), tuple(run.records for run in row))
            for group, row in zip(groups, rows, strict=True)
        ),
        tuple(pairs),
        baseline,
        shared,
        variations(compared, allowed),
        tuple(f"{_those(pair, [one])}: {reason}" for one, (reason, _) in lacking.items()),
    )


def _is_shared(key: str, value: str, runs: Iterable[Run]) -> bool:
    return all(run.settings.get(key) == value for run in runs)


def _read(folders: Sequence[Path], by: str, pair: str, also: Sequence[str]) -> list[Run]:
    runs = []
    known = [_settings(folder) for folder in folders]
    for option, key in (("--by", by), ("--pair", pair), *(("--also", key) for key in also)):
        if not any(key in settings for settings in known):
            raise UserError(f"{option} {one_line(key)}: no run has this setting{_nearest(key, known[0])}")
    for folder, settings in zip(folders, known, strict=True):
        for key in (by, pair):
            if key not in settings:
                raise UserError(f"{one_line(folder / RUN_CONFIG)}: it has no {one_line(key)}, which other runs have")
        records = read_metrics(own_file(folder, METRICS_FILE))
        runs.append(Run(folder, settings, records, _label(by, settings[by]), settings[pair]))
    return runs


def _settings(folder: Path) -> dict[str, str]:
    settings = run_settings(folder)
    if not settings:
        raise UserError(f"{one_line(folder / RUN_CONFIG)}: no such file; what differs between runs is read from it")
    return settings


def _nearest(key: str, settings: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(key, settings, n=1)
    return f"; did you mean {one_line(near[0])}?" if near else ""


def _placed(runs: Sequence[Run], by: str, pair: str) -> dict[tuple[str, str], Run]:
    """The runs by group and pair."""
    placed: dict[tuple[str, str], Run] = {}
    for run in runs:
        other = placed.setdefault((run.group, run.pair), run)
        if other is not run:
            raise UserError(
                f"{other.name} and {run.name}: both have {one_line(by)}={one_line(run.settings[by])} and "
                f"{one_line(pair)}={one_line(run.pair)}; name one of them, or see in which setting they differ"
            )
    return placed


def _in_order(values: Iterable[str]) -> list[str]:
    """Whole numbers by their size, then others."""
    return sorted(values, key=lambda text: (0, int(text), text) if text.isdecimal() else (1, 0, text))


def _enough(pairs: set[str], groups: Sequence[str], pair: str) -> list[str]:
    """The pairs in their order, of which there have to be two at least."""
    if len(pairs) < 2:
        raise UserError(
            f"{one_line(pair)}: {counted(len(pairs), 'value')} in all groups; an interval needs two pairs, and a claim "
            f"{pairs_needed(len(groups) - 1)}"
        )
    return _in_order(pairs)


def _baseline(groups: Sequence[str], against: str | None) -> str:
    if against is None:
        return USUAL_BASELINE if USUAL_BASELINE in groups else groups[0]
    for group in groups:
        if against == group or _same_value(against, group.rpartition("=")[2]):
            return group
    raise UserError(f"--against {one_line(against)}: no such group; there are {one_line(', '.join(groups))}")


def _same_value(one: str, other: str) -> bool:
    """Whether two texts are the same, or the same number."""
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False


def _label(by: str, value: str) -> str:
    """The name of a group: of a loss its own, of others the setting's last word with the value."""
    return value if by == _LOSS else f"{by.rpartition('.')[2]}={value}"


def _lacking(placed: Mapping[tuple[str, str], Run], groups: Sequence[str], pair: str) -> dict[str, tuple[str, str]]:
    """The pairs that are not complete, each with the reason and what to do."""
    found: dict[str, tuple[str, str]] = {}
    for one in _in_order({one for _, one in placed}):
        for group in groups:
            run = placed.get((group, one))
            if run is None:
                reason = f"{one_line(group)} has no run with {one_line(pair)}={one_line(one)}, which others have"
                found.setdefault(one, (reason, "make it, or name no run of the others"))
            elif run.last_step < (asked := _asked_steps(run)):
                reason = f"{run.name}: not finished, at step {run.last_step:,} of {asked:,}"
                found.setdefault(one, (reason, "the same command that started it resumes it"))
    return found


def _asked_steps(run: Run) -> int:
    text = run.settings.get(_STEPS, "")
    if not text.isdecimal():
        raise UserError(f"{one_line(run.folder / RUN_CONFIG)}: it has no {_STEPS}, so no end is known of the run")
    return int(text)


def _those(pair: str, values: Sequence[str]) -> str:
    """Pairs by their values of the setting; those of many whole numbers in a row as `1 to 8`."""
    if len(values) > 2 and all(value.isdecimal() for value in values):
        return f"{one_line(pair)} {named('', map(int, values)).removeprefix('s').strip()}"
    return f"{one_line(pair)} {', '.join(map(one_line, values))}"


def _refuse_other_steps(runs: Sequence[Run]) -> None:
    """See that all runs have recorded the same steps, and evaluated at the same ones."""
    first = runs[0]
    for what, steps_of in (("steps", _steps), ("evaluations", _evaluated)):
        for run in runs[1:]:
            own, others = steps_of(run), steps_of(first)
            if own != others:
                more, fewer = sorted(own - others), sorted(others - own)
                told = [f"it has {named('step', more)}"] * bool(more) + [f"it lacks {named('step', fewer)}"] * bool(
                    fewer
                )
                raise UserError(
                    f"{one_line(run.folder / METRICS_FILE)}: its {what} are not those of {first.name}: "
                    f"{' and '.join(told)}"
                )


def _steps(run: Run) -> set[int]:
    return {int(record["step"]) for record in run.records}


def _evaluated(run: Run) -> set[int]:
    return {int(record["step"]) for record in run.records if any(name.startswith(_EVALUATED) for name in record)}
