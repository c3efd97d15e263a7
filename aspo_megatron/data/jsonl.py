"""JSONL files of other people: an object a line, or one line that says which is none and what to do."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import refuse_many_values

MOST_LINE_BYTES = 256 * 2**20
"""A longer line is not read: several times that of the largest known problem with its tests."""

MOST_DEPTH = 100
"""Lists and objects within each other. Deeper ones could not be relied on to pass from process to process."""

_LINES_BETWEEN_REPORTS = 4096
_OTHER_FORMATS = {
    b"\x1f\x8b": "compressed by gzip; gunzip it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unzstd it",
    b"PK\x03\x04": "a zip archive; unzip it",
    b"PAR1": "a Parquet file; set kind: huggingface",
    b"ARROW1": "an Arrow file; set kind: huggingface",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
}
"""What a file is that begins so."""


def json_lines(path: Path, key: str, tell: Callable[[str], None]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSONL file, with `file:line`. Blank lines are skipped.

    Args:
        path: the file; what would block, never end, or not be the same when it is read again is refused.
        key: the configuration key of the source, e.g. `data.train`.
        tell: told now and then how many lines are read.

    Raises:
        ConfigError: the file cannot be read, or a line is no JSON object.
    """
    name = one_line(path)
    parse = _Parser()
    with _open(path, key) as file:
        number = 0
        while True:
            number += 1
            where = f"{name}:{number}"
            try:
                raw = file.readline(MOST_LINE_BYTES + 1)
            except OSError as error:
                raise ConfigError(f"{where}: cannot be read: {error.strerror or error}") from error
            if not raw:
                return
            if len(raw) > MOST_LINE_BYTES:
                raise ConfigError(f"{where}: longer than {MOST_LINE_BYTES >> 20} MiB; JSONL has a problem on each line")
            if number % _LINES_BETWEEN_REPORTS == 0:
                tell(f"{key}: {number:,} lines read")
            line = _decoded(raw, where, first=number == 1)
            if line.strip():
                yield where, parse(line, where)


def _open(path: Path, key: str) -> BinaryIO:
    name = one_line(path)
    try:
        # A pipe that nobody writes to would block while it is opened.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.fstat(descriptor).st_mode
    except FileNotFoundError as error:
        raise ConfigError(f"{key}.path: {name} is not there; give a JSONL file") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{key}.path: {name} cannot be read: {reason}; give a JSONL file") from error
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device; write what it gives into a file"
        raise ConfigError(f"{key}.path: {name} is {what}; give a JSONL file")
    return os.fdopen(descriptor, "rb")


def _decoded(raw: bytes, where: str, *, first: bool) -> str:
    """A line as text.

    Raises:
        ConfigError: it is none.
    """
    if first:
        for beginning, what in _OTHER_FORMATS.items():
            if raw.startswith(beginning):
                raise ConfigError(f"{where}: not UTF-8 text: the file is {what}")
    if b"\0" in raw:
        raise ConfigError(f"{where}: holds zero bytes: the file is damaged, or UTF-16; save it as UTF-8")
    try:
        # utf-8-sig: Windows editors put a byte-order mark before the first line.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where}: not UTF-8 text ({error.reason} at byte {error.start}); save the file as UTF-8, "
            "e.g. iconv -f LATIN1 -t UTF-8"
        ) from error


class _Parser:
    """Parses lines. `json` keeps the last of fields with one name; in a problem that is a mistake."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self._repeated: str | None = None

    def __call__(self, line: str, where: str) -> dict[str, Any]:
        """The object on a line.

        Raises:
            ConfigError: it is none, has two fields of one name, or more values than are read.
        """
        refuse_many_values(line, where, ConfigError)
        self._repeated = None
        try:
            fields = self._decoder.decode(line)
        except RecursionError as error:
            raise ConfigError(f"{where}: nested more than {MOST_DEPTH} deep") from error
        except json.JSONDecodeError as error:
            hint = "; JSONL has a whole object on each line" if line.strip() in ("[", "{") else ""
            raise ConfigError(f"{where}: not valid JSON ({error.msg}, column {error.colno}){hint}") from error
        except ValueError as error:
            raise ConfigError(f"{where}: a number with too many digits; write it as a text, in quotes") from error
        if not isinstance(fields, dict):
            hint = "; a list of problems goes on a line for each" if isinstance(fields, list) else ""
            raise ConfigError(f"{where}: each line must be a JSON object, not {show(fields)}{hint}")
        if line.count("[") + line.count("{") > MOST_DEPTH and _is_deep(fields):
            raise ConfigError(f"{where}: nested more than {MOST_DEPTH} deep")
        if self._repeated is not None:
            raise ConfigError(f"{where}: two fields are named {show(self._repeated)}; take one out")
        return fields

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Called for the inner objects first: what is noted in the end is of the whole line."""
        fields = dict(pairs)
        self._repeated = None
        if len(fields) < len(pairs):
            times = Counter(name for name, _ in pairs)
            self._repeated = next(name for name in fields if times[name] > 1)
        return fields


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
