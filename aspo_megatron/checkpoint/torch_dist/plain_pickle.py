"""Pickles of other people read as plain data: what they say is written down, and nothing of it is made or run.

A pickle is a program: of Python's own reader it may import and call anything. This one has no such instructions. A name
stays a name (`Name`), what would be made by calling it is a record of that (`Made`), a mapping is the list of its pairs
(`Pairs`). Instructions that data do not need are refused, and names that the reader does not expect.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aspo_megatron.foreign_text import one_line

_DEEPEST = 1 << 14
"""Values that wait to be put into another: Python's writer puts them in by the thousand."""

_LONGEST = 200
"""Bytes of a whole number, and characters of a name that is shown."""

_REFERENCE = 9
"""Bytes that a value takes in a list of values, which has an eighth in reserve."""

_NAME = 400
"""Bytes that a name takes with its two texts."""


class PlainPickleError(ValueError):
    """A pickle that is damaged, or holds anything but data."""


class Name(NamedTuple):
    """What a pickle calls a class or function."""

    module: str
    name: str

    def __str__(self) -> str:
        return one_line(f"{self.module}.{self.name}"[:_LONGEST])


@dataclass(slots=True, eq=False, repr=False)
class Made:
    """What would be made by calling `of` with `args`, and then be given `state`."""

    of: Name
    args: tuple[Any, ...]
    state: Any = None


class Pairs(list[Any]):
    """The keys and values of a mapping, in turn: to look a key up, and compare it, may take for ever."""

    __slots__ = ()

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Each key with its value."""
        each = iter(self)
        return zip(each, each, strict=True)


PERSISTENT = Name("", "persistent")
"""`Made.of` of what the pickle says is kept outside of it."""


def read_pickle(data: bytes, names: Mapping[str, Collection[str]], most_bytes: int) -> Any:
    """What a pickle says: None, numbers, text, bytes, tuples, lists, `Pairs`, `Name`, `Made`.

    Nothing that is printed or compared without looking at its types: tuples and lists may hold themselves.

    Args:
        data: the pickle, each byte of which may make a value of a hundred bytes.
        names: those that it may call, by module.
        most_bytes: of memory that its values may take.

    Raises:
        PlainPickleError: it is damaged, names something else, makes more, or wants to do more than describe data.
    """
    try:
        return _Reader(data, names, most_bytes).read()
    except (IndexError, struct.error) as error:
        raise PlainPickleError("it ends before its end") from error
    except (UnicodeDecodeError, OverflowError) as error:
        raise PlainPickleError("it is damaged") from error


class _Reader:
    """Follows the instructions of a pickle, with values on a stack."""

    def __init__(self, data: bytes, names: Mapping[str, Collection[str]], most_bytes: int) -> None:
        self._data, self._names = data, names
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: list[Any] = []
        self._left = most_bytes
        self._most_kept = most_bytes // _REFERENCE // 4

    def read(self) -> Any:
        """Follow the instructions to the end. The most frequent are here, since an index has millions of them."""
        data, stack, memo, follow = self._data, self._stack, self._memo, self._instructions()
        at, most_kept = 0, self._most_kept
        while True:
            code = data[at]
            at += 1
            if code == 0x94:  # keep the value on top
                memo.append(stack[-1])
                if len(memo) > most_kept:
                    self._take(self._left + 1)
            elif code == 0x68:  # a kept value
                stack.append(memo[data[at]])
                at += 1
            elif code == 0x4B:  # a small number
                stack.append(data[at])
                at += 1
            elif code == 0x2E:  # the end
                break
            else:
                instruction = follow.get(code)
                if instruction is None:
                    raise PlainPickleError(f"its instruction {code:#04x} is none that data need")
                self._at = at
                instruction()
                at = self._at
            if len(stack) > _DEEPEST:
                raise PlainPickleError("too many values wait for their place")
        if len(stack) != 1 or self._marks:
            raise PlainPickleError("it is not one value")
        return stack[0]

    def _instructions(self) -> dict[int, Callable[[], None]]:
        push, constant = self._push, self._stack.append
        constants = {"N": None, "\x88": True, "\x89": False, ")": ()}
        told: dict[str, Callable[[], None]] = {
            sign: (lambda value=value: constant(value))  # type: ignore[misc]
            for sign, value in constants.items()
        }
        told |= {
            "\x80": lambda: self._known_protocol(self._number(1)),
            "\x95": lambda: self._skip(8),  # a frame's length
            "M": lambda: push(self._number(2)),
            "J": lambda: push(self._number(4, signed=True)),
            "\x8a": lambda: push(self._long(self._number(1))),
            "G": lambda: push(struct.unpack(">d", self._bytes(8))[0]),
            "X": lambda: push(self._text(self._number(4))),
            "\x8c": lambda: push(self._text(self._number(1))),
            "C": lambda: push(self._bytes(self._number(1))),
            "]": lambda: push([]),
            "}": lambda: push(Pairs()),
            "(": self._mark,
            "t": lambda: push(tuple(self._from_mark())),
            "\x85": lambda: self._tuple(1),
            "\x86": lambda: self._tuple(2),
            "\x87": lambda: self._tuple(3),
            "a": lambda: self._append([self._pop()]),
            "e": lambda: self._append(self._from_mark()),
            "s": self._set_one,
            "u": lambda: self._set(self._from_mark()),
            "q": lambda: self._keep(self._number(1)),
            "r": lambda: self._keep(self._number(4)),
            "j": lambda: constant(self._memo[self._number(4)]),
            "c": lambda: push(self._name(self._line(), self._line())),
            "\x93": self._name_from_stack,
            "\x81": self._make,
            "R": self._make,
            "b": self._give_state,
            "Q": lambda: push(Made(PERSISTENT, (self._pop(),))),
        }
        return {ord(sign): instruction for sign, instruction in told.items()}

    # ---- the bytes that follow --------------------------------------------------------------------------------

    def _bytes(self, count: int) -> bytes:
        begin = self._at
        self._at = end = begin + count
        if end > len(self._data):
            raise PlainPickleError("it ends before its end")
        return self._data[begin:end]

    def _skip(self, count: int) -> None:
        self._at += count

    def _number(self, count: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._bytes(count), "little", signed=signed)

    def _long(self, count: int) -> int:
        if count > _LONGEST:
            raise PlainPickleError("a number of too many digits")
        return self._number(count, signed=True)

    def _text(self, count: int) -> str:
        return self._bytes(count).decode()

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 2 * _LONGEST)
        if end < 0:
            raise PlainPickleError("it is damaged")
        line = self._text(end - self._at)
        self._at = end + 1
        return line

    @staticmethod
    def _known_protocol(number: int) -> None:
        if not 2 <= number <= 5:
            raise PlainPickleError("it is no pickle of a protocol from 2 to 5")

    # ---- values -----------------------------------------------------------------------------------------------

    def _take(self, size: int) -> None:
        """Count bytes that values are about to take, or have just taken."""
        self._left -= size
        if self._left < 0:
            raise PlainPickleError("it makes more values than what it should describe has")

    def _push(self, value: Any) -> None:
        self._take(sys.getsizeof(value))
        self._stack.append(value)

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise PlainPickleError("it is damaged")
        return self._stack.pop()

    def _mark(self) -> None:
        if len(self._marks) > 100:
            raise PlainPickleError("it is nested too deeply")
        self._marks.append(len(self._stack))

    def _from_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _tuple(self, count: int) -> None:
        stack, start = self._stack, len(self._stack) - count
        if start < (self._marks[-1] if self._marks else 0):
            raise PlainPickleError("it is damaged")
        made = tuple(stack[start:])
        del stack[start:]
        self._push(made)

    def _append(self, values: list[Any]) -> None:
        to = self._stack[-1]
        if type(to) is not list:
            raise PlainPickleError("it would add to what is no list")
        self._take(len(values) * _REFERENCE)
        to += values

    def _set(self, values: list[Any]) -> None:
        to = self._stack[-1]
        if type(to) is not Pairs or len(values) % 2:
            raise PlainPickleError("it would set an entry of what is no mapping")
        self._take(len(values) * _REFERENCE)
        to += values

    def _set_one(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _keep(self, number: int) -> None:
        if number != len(self._memo):  # writers count from 0
            raise PlainPickleError("it is damaged")
        if number >= self._most_kept:
            self._take(self._left + 1)
        self._memo.append(self._stack[-1])

    # ---- names, and what would be made of them ------------------------------------------------------------------

    def _name(self, module: str, name: str) -> Name:
        self._take(_NAME)
        told = Name(module, name)
        if name not in self._names.get(module, ()):
            raise PlainPickleError(f"it names {told}, which describes no tensor")
        return told

    def _name_from_stack(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise PlainPickleError("it is damaged")
        self._stack.append(self._name(module, name))

    def _make(self) -> None:
        stack = self._stack
        if len(stack) < (self._marks[-1] if self._marks else 0) + 2:
            raise PlainPickleError("it is damaged")
        args, of = stack.pop(), stack.pop()
        if type(of) is not Name or type(args) is not tuple:
            raise PlainPickleError("it would call what is no class that it may name")
        self._push(Made(of, args))

    def _give_state(self) -> None:
        state, made = self._pop(), self._stack[-1]
        if type(made) is not Made or made.state is not None or made.of == PERSISTENT:
            raise PlainPickleError("it would change a class, or what is made already")
        made.state = state
