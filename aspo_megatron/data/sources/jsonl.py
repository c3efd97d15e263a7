"""JSON of other people: the lines of a JSONL file, and the parser that refuses what would be a mistake in a problem."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from aspo_megatron.data.bad_problems import Reason, Row
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import refuse_many_values

MOST_LINE_BYTES = 256 * 2**20
"""A longer line is not read: several times that of the largest known problem with its tests."""

MOST_DEPTH = 100
"""Lists and objects within each other. Deeper ones could not be relied on to pass from process to process."""

_LINES_BETWEEN_REPORTS = 4096


class ByteSource(Protocol):
    """A file of bytes from its beginning, perhaps unpacked while it is read."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""

    def readline(self, size: int, /) -> bytes:
        """A line with its end, or so many bytes of it."""


def json_lines(file: ByteSource, name: str, key: str, tell: Callable[[str], None]) -> Iterator[Row]:
    """Each object of a JSONL file, with `file:line`. Blank lines are skipped.

    Args:
        file: what is read.
        name: how errors call it.
        key: the configuration key of the source, e.g. `data.train`.
        tell: told now and then how many lines are read.

    Raises:
        ConfigError: the file cannot be read on.
    """
    parser = Parser()
    number = 0
    while True:
        number += 1
        where = f"{name}:{number}"
        try:
            raw = file.readline(MOST_LINE_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{one_line(where)}: cannot be read: {one_line(error.strerror or error)}") from error
        if not raw:
            return
        if len(raw) > MOST_LINE_BYTES:
            raise ConfigError(f"{where}: longer than {MOST_LINE_BYTES >> 20} MiB; JSONL has a problem on each line")
        if number % _LINES_BETWEEN_REPORTS == 0:
            tell(f"{key}: {number:,} lines read")
        line = decoded(raw, where)
        if isinstance(line, Reason):
            yield where, line
        elif line.strip():
            yield where, parser.line(line, where)


def decoded(raw: bytes, where: str) -> str | Reason:
    """A line as text, or why it is none."""
    if b"\0" in raw:
        text = f"{where}: holds zero bytes: the file is damaged, or UTF-16; save it as UTF-8"
        return Reason("zero bytes", text)
    try:
        # utf-8-sig: Windows editors put a byte-order mark before the first line.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Reason("not UTF-8 text", f"{where}: {not_utf8(error)}")


def not_utf8(error: UnicodeDecodeError) -> str:
    """What is said of bytes that are no text."""
    return (
        f"not UTF-8 text ({error.reason} at byte {error.start}); save the file as UTF-8, e.g. iconv -f LATIN1 -t UTF-8"
    )


class Parser:
    """Parses rows. `json` keeps the last of fields with one name; in a problem that is a mistake."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self._repeated: str | None = None

    def line(self, line: str, where: str) -> dict[str, Any] | Reason:
        """The object on a line, or why there is none."""
        self._repeated = None
        try:
            refuse_many_values(line, where, ConfigError)
            fields = self._decoder.decode(line)
        except RecursionError:
            return _too_deep(where)
        except json.JSONDecodeError as error:
            hint = "; JSONL has a whole object on each line" if line.strip() in ("[", "{") else ""
            return Reason("not valid JSON", f"{where}: not valid JSON ({error.msg}, column {error.colno}){hint}")
        except ValueError:
            return _many_digits(where)
        except ConfigError as error:
            return Reason("too many values", str(error))
        return self.checked(fields, where, line.count("[") + line.count("{"))

    def at(self, text: str, start: int, where: str) -> tuple[Any, int]:
        """The value that begins at a place of a text, and where it ends; for `checked`.

        Raises:
            JSONDecodeError: it is not valid JSON, or does not end in the text.
            ConfigError: it is JSON that is not read.
        """
        self._repeated = None
        try:
            return self._decoder.raw_decode(text, start)
        except RecursionError as error:
            raise ConfigError(_too_deep(where).text) from error
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            raise ConfigError(_many_digits(where).text) from error

    def checked(self, fields: Any, where: str, brackets: int) -> dict[str, Any] | Reason:
        """What was parsed last, if it is an object as a problem may be; `brackets`: that open in its text."""
        if not isinstance(fields, dict):
            return Reason("not an object", f"{where}: a problem must be a JSON object, not {show(fields)}")
        if brackets > MOST_DEPTH and _is_deep(fields):
            return _too_deep(where)
        if self._repeated is not None:
            text = f"{where}: two fields are named {show(self._repeated)}; take one out"
            return Reason("two fields of one name", text)
        return fields

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Called for the inner objects first: what is noted in the end is of the whole line."""
        fields = dict(pairs)
        self._repeated = None
        if len(fields) < len(pairs):
            times = Counter(name for name, _ in pairs)
            self._repeated = next(name for name in fields if times[name] > 1)
        return fields


def _too_deep(where: str) -> Reason:
    return Reason("nested too deeply", f"{where}: nested more than {MOST_DEPTH} deep")


def _many_digits(where: str) -> Reason:
    return Reason("a long number", f"{where}: a number with too many digits; write it as a text, in quotes")


def _is_deep(fields: Any) -> bool:
    level = [fields]
    for _ in range(MOST_DEPTH):
        inner = (part.values() if isinstance(part, dict) else part for part in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
    return bool(level)


def show(value: object) -> str:
    """A value for an error message, kept short."""
    text = one_line(_shortened(value))
    return text if len(text) <= 60 else f"a {type(value).__name__} ({text[:50]}...)"


def _shortened(value: object) -> str:
    """Its `repr`; of a long text the beginning."""
    if isinstance(value, str):
        return repr(value[:100])
    try:
        return repr(value)
    except (RecursionError, ValueError):  # ValueError: an integer of thousands of digits
        return "..."
