"""The reward `mixture`: a weighted sum of other rewards, each for all problems or for those with certain fields."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aspo_megatron.config import RewardComponent
from aspo_megatron.config.reward import FieldValue
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.sources.fields import ABSENT, lookup, named_in, plain
from aspo_megatron.data.sources.jsonl import show
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line, plain_logger
from aspo_megatron.rewards.text import named

logger = plain_logger(__name__)

_MOST_FIELDS = 50
"""Fields of a problem that an error may name."""


@dataclass(frozen=True)
class Score:
    """What a response is worth, and for a mixture the values of its parts, not yet weighted, by name."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)


def applies(component: RewardComponent, problem: Problem) -> bool:
    """Whether a part of a mixture counts for a problem: all fields in its `when` have a value that is listed."""
    return all(_is_met(lookup(problem.metadata, name), wanted) for name, wanted in component.when.items())


def _is_met(value: Any, wanted: FieldValue | tuple[FieldValue, ...]) -> bool:
    values = wanted if isinstance(wanted, tuple) else (wanted,)
    return value is not ABSENT and any(_is_same(plain(value), each) for each in values)


def _is_same(value: Any, wanted: FieldValue) -> bool:
    """As texts, or as numbers: a file may have 3 as `3`, `3.0` or `"3"`, and true as `true` or `"True"`."""
    if str(value) == str(wanted):
        return True
    if isinstance(wanted, bool) or isinstance(value, bool):
        return str(value).strip().lower() == str(wanted).lower()
    if isinstance(wanted, str) or not isinstance(value, str | int | float):
        return False
    try:
        return float(value) == wanted
    except (ValueError, OverflowError):
        return False


def unmet(components: Mapping[str, RewardComponent], problem: Problem) -> str:
    """Why no part of a mixture applies to a problem: fields that it lacks, else the values that it has; a few words."""
    names = list(dict.fromkeys(name for part in components.values() for name in part.when))
    values = {name: lookup(problem.metadata, name) for name in names}
    lacking = [name for name in names if values[name] is ABSENT]
    if lacking:
        return f"it has no field {show(lacking[0])}, its fields are: {named_in(problem.metadata)}"
    return " and ".join(f"its {one_line(name)} is {show(value)}" for name, value in values.items())


def refuse_unknown_fields(components: Mapping[str, RewardComponent], problems: Iterable[Problem]) -> None:
    """See that each field in a `when` is there in some problem; warn of parts that apply to none.

    Args:
        components: the parts of a mixture, by name.
        problems: all that the run has. No more of them are looked at than are needed.

    Raises:
        ConfigError: no problem has a field of that name, which is misspelt then; says which fields there are.
    """
    unknown = {(part, name) for part, component in components.items() for name in component.when}
    idle = {part: component for part, component in components.items() if component.when}
    there: dict[str, None] = {}
    for problem in problems:
        if not idle:
            return
        there.update(dict.fromkeys(map(str, itertools.islice(problem.metadata, _MOST_FIELDS))))
        unknown = {(part, name) for part, name in unknown if lookup(problem.metadata, name) is ABSENT}
        idle = {part: component for part, component in idle.items() if not applies(component, problem)}
    for part, name in sorted(unknown):
        near = difflib.get_close_matches(name, there, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(
            f"reward.components.{one_line(part)}.when: no problem has a field {show(name)}{one_line(hint)} The fields "
            f"are: {named_in(there)}"
        )
    for part, component in idle.items():
        logger.warning("reward.components.%s applies to no problem: none has %s", part, component.when)


@dataclass(frozen=True)
class Mixture:
    """Named parts: what the configuration says of each, and the function that scores it."""

    parts: Sequence[tuple[str, RewardComponent, Callable[[Problem, str], float]]]

    def score(self, problem: Problem, response: str) -> Score:
        """The sum of weight x value over the parts that apply to the problem.

        Raises:
            ValueError: no part applies.
            Exception: whatever a part raises.
        """
        values = {
            name: scorer(problem, response) for name, component, scorer in self.parts if applies(component, problem)
        }
        if not values:
            raise ValueError(f"no part of the mixture is for {named(problem)}; see reward.components.*.when")
        # fsum, so that weights such as 0.7, 0.2 and 0.1 make 1, from which on a response counts as right.
        weighted = [component.weight * values[name] for name, component, _ in self.parts if name in values]
        return Score(math.fsum(weighted), values)
