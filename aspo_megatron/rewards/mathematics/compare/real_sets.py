r"""Sets of real numbers as people write them: intervals, inequalities, and several of them.

Only what says of one variable alone how it is to numbers is read; nothing is solved. The rest is for others to compare.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, partial, reduce
from typing import NamedTuple

from aspo_megatron.rewards.mathematics.compare import intervals
from aspo_megatron.rewards.mathematics.compare.intervals import End, RealSet, read_end
from aspo_megatron.rewards.mathematics.forms.set_signs import NAME, joins, may_be_set, plain_signs
from aspo_megatron.rewards.mathematics.forms.tidy import tidied

_MOST_PARTS = 16
_BUILDER = re.compile(
    rf"\\\{{ ?({NAME}) ?(?:\u2208 ?\u211d ?)?(?:[,;] ?)?[|:]([^{{}}|]*(?:\{{[^{{}}]*\}}[^{{}}|]*)*)\\\}}"
)
_MEMBER = re.compile(rf"({NAME}) ?\u2208(.+)", re.DOTALL)
_UNEQUAL = re.compile(rf" ?({NAME}) ?\u2260")
_DISTANCE = re.compile(rf"\|({NAME})\| ?([<>\u2264\u2265]) ?([^<>\u2264\u2265\u2260=\u2227\u2228,;|]+)")
_COMPARED = re.compile("([<>\u2264\u2265\u2260=])")
_TURNED = {"<": ">", ">": "<", "\u2264": "\u2265", "\u2265": "\u2264"}

_POINTS, _PAIR, _SET, _TOLD = "points", "pair", "set", "told"


class _Read(NamedTuple):
    """A set, and how it is written.

    `kind`: `told` of a variable, which `names` has; else intervals, which might be pairs of numbers, or are none; or
    single numbers.
    """

    numbers: RealSet
    kind: str
    names: frozenset[str] = frozenset()


def same_real_sets(reference: str, answer: str, question: str) -> bool | None:
    """Whether two formulas are the same set of real numbers; None if one of them is no such set, or might be another.

    What is written as the pair `(1,3)` is that to another pair and to lists; to what is told of a variable it is the
    interval. What the question asks to join is not answered by repeating it.

    Args:
        reference: as it is given.
        answer: what is in the box.
        question: the problem.
    """
    wanted = _read_reference(reference) if may_be_set(reference) else None
    if wanted is None or not wanted.numbers:
        return None
    given = _read(plain_signs(answer))
    if given is None or (wanted.kind == _PAIR and given.kind != _TOLD) or len(wanted.names | given.names) > 1:
        return None
    return intervals.same_intervals(wanted.numbers, given.numbers) and not (
        joins(answer) and _plain(answer) in _plain(question)
    )


def _plain(text: str) -> str:
    return "".join(text.replace("$", "").split())


@lru_cache(maxsize=1024)
def _read_reference(formula: str) -> _Read | None:
    text = plain_signs(formula)
    distance = _DISTANCE.fullmatch(text)
    if distance is not None:
        name, sign, limit = distance.groups()
        join = "\u2227" if sign in "<\u2264" else "\u2228"
        text = f"{name}{sign}{limit}{join}{name}{_TURNED[sign]}-({limit})"
    elif text == "\u211d" and tidied(formula) == "R":
        return None
    return _read(text)


def _read(text: str) -> _Read | None:
    """What is joined by `or`, then by `and`, then by commas, or one relation or set."""
    text = text.strip()
    for signs, join in _OF_PARTS:
        parts = _split(text, signs)
        if len(parts) == 1:
            continue
        if len(parts) > _MOST_PARTS or (signs == "\u2228" and len(_split(text, ",;")) > 1):
            return None
        read = [_read(part) for part in (_all_told(parts) if signs == ",;" else parts)]
        known = [each for each in read if each is not None]
        names = frozenset[str]().union(*(each.names for each in known))
        if len(known) < len(read) or len(names) > 1 or all(each.kind == _POINTS for each in known):
            return None
        return join(known, names)
    return _read_one(text)


def _all_told(parts: list[str]) -> list[str]:
    r"""With the relation before each number of `x \neq 1, 2`."""
    told = _UNEQUAL.match(parts[0])
    return [part if told is None or _COMPARED.search(part) else told[0] + part for part in parts]


def _either(parts: list[_Read], names: frozenset[str]) -> _Read | None:
    return _Read(intervals.united(*(part.numbers for part in parts)), _TOLD if names else _SET, names)


def _both(parts: list[_Read], names: frozenset[str]) -> _Read | None:
    """All relations at once; but intervals that are apart are named one after the other."""
    if all(part.kind == _TOLD for part in parts):
        return _Read(reduce(intervals.common, (part.numbers for part in parts)), _TOLD, names)
    return None if names else _listed(parts, names)


def _listed(parts: list[_Read], names: frozenset[str]) -> _Read | None:
    """All relations at once if that leaves a number, else one or the other; or intervals that are apart."""
    sets = [part.numbers for part in parts]
    together = reduce(intervals.common, sets)
    if together and names:
        return _Read(together, _TOLD, names) if all(part.kind == _TOLD for part in parts) else None
    if not intervals.are_apart(sets) or (names and not all(part.kind in (_TOLD, _POINTS) for part in parts)):
        return None
    kind = _PAIR if all(part.kind == _PAIR for part in parts) else _SET
    return _Read(intervals.united(*sets), _TOLD if names else kind, names)


_OF_PARTS: tuple[tuple[str, Callable[[list[_Read], frozenset[str]], _Read | None]], ...] = (
    ("\u2228", _either),
    ("\u2227", _both),
    (",;", _listed),
    ("\u222a", _either),
)


def _split(text: str, signs: str) -> list[str]:
    """The parts between any of some signs that are in no brackets; `x \\in` goes with all of a union."""
    parts, start, depth = [], 0, 0
    if signs == "\u222a" and _MEMBER.fullmatch(text) and not _COMPARED.search(text):
        return [text]
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in signs:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def _read_one(text: str) -> _Read | None:
    builder = _BUILDER.fullmatch(text)
    if builder is not None:
        read = _read(builder[2])
        return None if read is None or read.names != {builder[1]} else read._replace(kind=_SET, names=frozenset())
    member = _MEMBER.fullmatch(text)
    if member is not None:
        read = _read(member[2])
        is_set = read is not None and not read.names and read.kind != _POINTS
        return _Read(read.numbers, _TOLD, frozenset((member[1],))) if read is not None and is_set else None
    if len(_split(text, "<>\u2264\u2265\u2260=")) > 1:
        return _read_relation(text)
    whole, *excepted = _split(text, "\u2216")
    read = _read_set(whole.strip())
    taken = [_read_points(each.strip()) for each in excepted]
    for points in taken:
        if read is None or points is None:
            return None
        read = read._replace(numbers=reduce(intervals.common, map(intervals.without, points), read.numbers), kind=_SET)
    return read


def _read_set(text: str) -> _Read | None:
    """All numbers, an interval, or some numbers in braces."""
    if text == "\u211d":
        return _Read(intervals.ALL, _SET)
    points = _read_points(text)
    if points is not None:
        return _Read(intervals.united(*(intervals.between(each, False, each, False) for each in points)), _POINTS)
    inside = _split(text[1:-1], ",;")
    if text[:1] not in ("(", "[") or text[-1] not in ")]" or len(inside) != 2:
        return None
    opens, closes = text[0] == "(", text[-1] == ")"
    low, high = _end(inside[0]), _end(inside[1])
    if low is None or high is None or (low == intervals.LEAST and not opens) or (high == intervals.MOST and not closes):
        return None
    numbers = intervals.between(low, opens, high, closes)
    is_pair = opens and closes and low != intervals.LEAST and high != intervals.MOST
    return _Read(numbers, _PAIR if is_pair else _SET) if numbers and low != high else None


def _read_points(text: str) -> list[End] | None:
    if not (text.startswith("\\{") and text.endswith("\\}")):
        return None
    points = [read_end(part) for part in _split(text[2:-2], ",;")[:_MOST_PARTS]]
    known = [point for point in points if point is not None]
    return known if len(known) == len(points) else None


def _end(text: str) -> End | None:
    ends = {"\u221e": intervals.MOST, "-\u221e": intervals.LEAST}
    return ends.get(text.replace(" ", "")) or read_end(text)


def _read_relation(text: str) -> _Read | None:
    """A variable compared with one number, or with one on each side."""
    sides = [side.strip() for side in _COMPARED.split(text)]
    names = [side for side in sides[::2] if re.fullmatch(NAME, side)]
    if len(names) != 1 or len(sides) not in (3, 5):
        return None
    place = sides.index(names[0])
    if len(sides) == 5 and (place != 2 or {sides[1], sides[3]} not in ({"<"}, {">"}, {"<", "\u2264"}, {">", "\u2265"},
                                                                       {"\u2264"}, {"\u2265"})):  # fmt: skip
        return None
    told = partial(_Read, names=frozenset(names))
    after = [(sides[n], _end(sides[n + 1])) for n in range(place + 1, len(sides), 2)]
    before = [(_TURNED.get(sides[n + 1], sides[n + 1]), _end(sides[n])) for n in range(0, place, 2)]
    found = [_ray(sign, end) for sign, end in before + after if end is not None]
    if len(found) < len(before + after) or not all(found):
        return None
    numbers = reduce(intervals.common, found)
    return told(numbers, _POINTS if sides[1] == "=" else _TOLD) if numbers else None


def _ray(sign: str, end: End) -> RealSet:
    """The numbers that a sign puts to one side of an end; nothing if it is infinite and that is not strict."""
    if end in (intervals.LEAST, intervals.MOST) and (sign, end) not in ((">", intervals.LEAST), ("<", intervals.MOST)):
        return ()
    if sign == "\u2260":
        return intervals.without(end)
    if sign == "=":
        return intervals.between(end, False, end, False)
    is_open = sign in "<>"
    if sign in "<\u2264":
        return intervals.between(intervals.LEAST, True, end, is_open)
    return intervals.between(end, is_open, intervals.MOST, True)
