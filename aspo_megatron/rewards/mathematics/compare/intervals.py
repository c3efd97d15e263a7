"""Sets of real numbers as disjoint intervals in order: what is common to them, and whether they are the same."""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import sympy

from aspo_megatron.rewards.mathematics.compare.values import same_by_value, value_at
from aspo_megatron.rewards.mathematics.cost.latex_size import LIMIT
from aspo_megatron.rewards.mathematics.reading.answers import TooBigError, read_answer
from aspo_megatron.rewards.mathematics.reading.formula import boxed

_DIGITS = 40
_SAME = sympy.Float("1e-30")
_LONGEST = 100


class End(NamedTuple):
    """Where an interval ends: `value` as a decimal or infinity, to put ends in order, and what was `read`."""

    value: Any
    read: Any


class Interval(NamedTuple):
    """All numbers between two ends, which belong to it unless it is open there; a point has the same end twice."""

    low: End
    opens: bool
    high: End
    closes: bool


RealSet = tuple[Interval, ...]

LEAST, MOST = End(-sympy.oo, -sympy.oo), End(sympy.oo, sympy.oo)
ALL: RealSet = (Interval(LEAST, True, MOST, True),)


def read_end(text: str) -> End | None:
    """A real number; None if a text is anything else."""
    if len(text) > _LONGEST or not text.strip():
        return None
    try:
        read = read_answer(boxed(text.strip()), LIMIT)
    except TooBigError:
        return None
    if len(read) < 2 or not isinstance(read[0], sympy.Expr) or read[0].free_symbols:
        return None
    try:
        value = value_at(read[0], (), 0, _DIGITS)
    except Exception:  # Whatever cannot be evaluated is not known to be a number.
        return None
    return End(value, read[0]) if value is not None and value.is_real else None


def between(low: End, opens: bool, high: End, closes: bool) -> RealSet:
    """One interval, or nothing if its ends leave nothing between them."""
    order = _order(low, high)
    is_empty = order > 0 or (order == 0 and (opens or closes))
    return () if is_empty else (Interval(low, opens, high, closes),)


def without(point: End) -> RealSet:
    """All numbers but one."""
    return (Interval(LEAST, True, point, True), Interval(point, True, MOST, True))


def common(one: RealSet, other: RealSet) -> RealSet:
    """The numbers that are in both."""
    return united(*(_shared(first, second) for first in one for second in other))


def united(*sets: RealSet) -> RealSet:
    """The numbers that are in any of them."""
    found: list[Interval] = []
    for interval in [each for every in sets for each in every]:
        merged, apart = interval, []
        for other in found:
            if _touch(merged, other):
                merged = _joined(merged, other)
            else:
                apart.append(other)
        place = sum(_order(other.low, merged.low) < 0 for other in apart)
        found = [*apart[:place], merged, *apart[place:]]
    return tuple(found)


def are_apart(sets: list[RealSet]) -> bool:
    """Whether no two of them have a number in common."""
    return not any(common(one, other) for one, other in combinations(sets, 2))


def same_intervals(reference: RealSet, answer: RealSet) -> bool:
    """Whether both are the same set, where decimals may differ as in numbers."""
    return len(reference) == len(answer) and all(
        (one.opens, one.closes) == (other.opens, other.closes)
        and _same_end(one.low, other.low)
        and _same_end(one.high, other.high)
        for one, other in zip(reference, answer, strict=True)
    )


def _same_end(one: End, other: End) -> bool:
    if one.value.is_infinite or other.value.is_infinite:
        return bool(one.value == other.value)
    same = same_by_value(one.read, other.read)
    return _order(one, other) == 0 if same is None else same


def _order(one: End, other: End) -> int:
    """Less than 0 if one is before the other, 0 if they are the same, else more."""
    first, second = one.value, other.value
    if first == second:
        return 0
    is_finite = first.is_finite and second.is_finite
    if is_finite and abs(first - second) <= _SAME * max(abs(first), abs(second)):
        return 0
    return -1 if first < second else 1


def _shared(one: Interval, other: Interval) -> RealSet:
    start, end = _order(one.low, other.low), _order(one.high, other.high)
    opens = one.opens or other.opens if start == 0 else (one if start > 0 else other).opens
    closes = one.closes or other.closes if end == 0 else (one if end < 0 else other).closes
    return between(one.low if start > 0 else other.low, opens, one.high if end < 0 else other.high, closes)


def _touch(one: Interval, other: Interval) -> bool:
    """Whether they are one interval together."""
    first, second = (one, other) if _order(one.low, other.low) <= 0 else (other, one)
    order = _order(second.low, first.high)
    return order < 0 or (order == 0 and not (first.closes and second.opens)) or _order(one.low, other.low) == 0


def _joined(one: Interval, other: Interval) -> Interval:
    start, end = _order(one.low, other.low), _order(one.high, other.high)
    opens = one.opens and other.opens if start == 0 else (one if start < 0 else other).opens
    closes = one.closes and other.closes if end == 0 else (one if end > 0 else other).closes
    return Interval(one.low if start < 0 else other.low, opens, one.high if end > 0 else other.high, closes)
