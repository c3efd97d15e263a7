"""JSON files that are a list of problems, an object with such a list in it, or objects on several lines each."""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from aspo_megatron.data.bad_problems import Reason, Row
from aspo_megatron.data.sources.fields import ABSENT, lookup
from aspo_megatron.data.sources.jsonl import MOST_LINE_BYTES, ByteSource, Parser, not_utf8, show
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import MOST_VALUES, refuse_many_values

HEAD_BYTES = 4 * 2**20
"""By so much of a file's beginning it is seen what it is."""

_PIECE_BYTES = 2**20
_CUT = 16
"""Characters: more than any name, number's end or escape that is cut off."""
_SPACES = re.compile(r"[ \t\n\r]*+")
_CERTAIN = ("prompt", "problem", "question")
"""Names that only a problem has."""


def list_start(head: bytes, prompt_field: str) -> int | None:
    """Where in its text the list of a JSON file begins (behind the bracket); None if it is no list: then it is JSONL.

    Args:
        head: the beginning of the file, `HEAD_BYTES` or all of it.
        prompt_field: the field of a problem by which a line is told from an object around a list.
    """
    text = head.decode("utf-8-sig", errors="ignore")
    start = _behind_spaces(text, 0)
    if text.startswith("[", start):
        return start + 1
    if not text.startswith("{", start) or _is_problem(text.lstrip().partition("\n")[0], 0, (prompt_field,)):
        return None
    return _list_within(text, start + 1, (prompt_field, *_CERTAIN))


def is_spread(head: bytes) -> bool:
    """Whether a file that is no list begins with an object on several lines, which are not lines of JSONL then."""
    text = head.decode("utf-8-sig", errors="ignore").lstrip()
    try:
        fields, end = Parser().at(text, 0, "")
    except (ValueError, ConfigError):
        return False
    return isinstance(fields, dict) and "\n" in text[:end]


def _list_within(text: str, at: int, names: tuple[str, ...]) -> int | None:
    """Where in an object, of which a part is there, a list of problems begins (behind the bracket)."""
    parser = Parser()
    try:
        while True:
            name, at = parser.at(text, _behind_spaces(text, at), "")
            at = _behind_spaces(text, at)
            if not isinstance(name, str) or not text.startswith(":", at):
                return None
            at = _behind_spaces(text, at + 1)
            if text.startswith("[", at) and _is_problem(text, _behind_spaces(text, at + 1), names):
                return at + 1
            _, at = parser.at(text, at, "")
            at = _behind_spaces(text, at)
            if not text.startswith(",", at):
                return None
            at += 1
    except (ValueError, ConfigError):
        return None


def _behind_spaces(text: str, at: int) -> int:
    found = _SPACES.match(text, at)
    return found.end() if found else at


def _is_problem(text: str, start: int, names: tuple[str, ...]) -> bool:
    """Whether a whole object begins here that has one of these fields."""
    try:
        fields, _ = Parser().at(text, start, "")
    except (ValueError, ConfigError):
        return False
    return isinstance(fields, dict) and any(lookup(fields, name) is not ABSENT for name in names)


def list_rows(file: ByteSource, start: int, name: str) -> Iterator[Row]:
    """Each object of the list, with its place from 0.

    Args:
        file: a file that `list_start` knows.
        start: what it gave.
        name: how errors call the file.

    Raises:
        ConfigError: the file cannot be read on: it is damaged, no JSON, or has several lists of objects.
    """
    text = _Text(file, name)
    opening = text.sign()
    while start > len(text.text) and text.more(name):
        pass
    text.at = start
    yield from _items(text, name)
    if opening == "{":
        while text.sign() == ",":
            text.at += 1
            _skip_member(text, name)
        if text.sign() != "}":
            raise ConfigError(f"{name}: not valid JSON: the object around the list of problems does not end")
        text.at += 1
    if rest := text.sign():
        raise ConfigError(f"{name}: not valid JSON: {show(rest)} follows the list of problems")


def object_rows(file: ByteSource, name: str) -> Iterator[Row]:
    """Each of the objects that follow each other in a file, with its place from 0.

    Args:
        file: a file in which they have several lines, see `is_spread`.
        name: how errors call the file.

    Raises:
        ConfigError: the file cannot be read on: it is damaged or no JSON.
    """
    text = _Text(file, name)
    for number in itertools.count():
        if not text.sign():
            return
        where = f"{name} row {number}"
        yield where, text.row(where)


def _items(text: _Text, name: str) -> Iterator[Row]:
    if text.sign() == "]":
        text.at += 1
        return
    for number in itertools.count():
        where = f"{name} row {number}"
        if not text.sign():
            raise ConfigError(f"{where}: not valid JSON: the list does not end; the file is cut off")
        yield where, text.row(where)
        sign = text.sign()
        if sign not in (",", "]"):
            what = f"{show(sign)} follows it, where a comma should" if sign else "the list does not end; it is cut off"
            raise ConfigError(f"{where}: not valid JSON: {what}")
        text.at += 1
        if sign == "]":
            return


def _skip_member(text: _Text, name: str) -> None:
    member = text.value(name)
    if not isinstance(member, str) or text.sign() != ":":
        raise ConfigError(f"{name}: not valid JSON: what follows the list of problems is not a field")
    text.at += 1
    value = text.value(name)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        raise ConfigError(
            f"{name}: holds a second list of objects, {show(member)}; write the one to be used to a file of its own"
        )


class _Text:
    """The text of a file, of which a part is held; `at`: how far it is read."""

    def __init__(self, file: ByteSource, name: str) -> None:
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._parser = Parser()
        self._ended = False
        self.text, self.at = "", 0

    def more(self, where: str) -> bool:
        """Hold twice as much of what is unread; False at the end of the file.

        Raises:
            ConfigError: it cannot be read, or a single value is too large.
        """
        if self._ended:
            return False
        rest = self.text[self.at :]
        try:
            piece = self._file.read(max(_PIECE_BYTES, len(rest)))
            self.text, self.at = rest + self._decoder.decode(piece, final=not piece), 0
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._name}: {not_utf8(error)}") from error
        except OSError as error:
            raise ConfigError(f"{self._name}: cannot be read: {one_line(error.strerror or error)}") from error
        if len(self.text) > MOST_LINE_BYTES:
            raise ConfigError(f"{where}: longer than {MOST_LINE_BYTES >> 20} MiB")
        if len(self.text) > MOST_VALUES:  # each takes a character at least
            refuse_many_values(self.text, where, ConfigError)
        self._ended = not piece
        return bool(piece)

    def sign(self) -> str:
        """The next character that is no space, which is then at `at`; empty at the end."""
        while True:
            self.at = _behind_spaces(self.text, self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more(self._name):
                return ""

    def value(self, where: str) -> Any:
        """The next value.

        Raises:
            ConfigError: it is not valid JSON, or is not read.
        """
        return self._next(where)[0]

    def row(self, where: str) -> dict[str, Any] | Reason:
        """The next value, if it is an object as a problem may be."""
        value, start = self._next(where)
        brackets = self.text.count("[", start, self.at) + self.text.count("{", start, self.at)
        return self._parser.checked(value, where, brackets)

    def _next(self, where: str) -> tuple[Any, int]:
        """The next value, and where it began in `text`."""
        self.sign()
        while True:
            try:
                value, end = self._parser.at(self.text, self.at, where)
            except json.JSONDecodeError as error:
                place = f"character {error.pos - self.at} of it"
                # What is cut off looks broken at its end, or from where a text begins that does not end.
                is_cut = error.pos >= len(self.text) - _CUT or error.msg.startswith("Unterminated")
                if is_cut and self.more(where):
                    continue
                raise ConfigError(f"{where}: not valid JSON ({error.msg}, {place})") from error
            if end == len(self.text) and self.more(where):
                continue  # a number may go on
            start, self.at = self.at, end
            return value, start
