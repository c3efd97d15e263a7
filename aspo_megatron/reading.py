"""The one place through which small files of other people are read: what cannot be read is one line that names it."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line

MOST_BYTES = 64 * 2**20
"""By default, the size above which a file is not read: many times that of any index or configuration."""

MOST_VALUES = 4 * 2**20
"""Values of a JSON text, above which it is not parsed: they may take a GiB, which is thirty times the text's size."""

_PIECE_BYTES = 2**20

_TEXT = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A text in JSON, or the beginning of one that does not end."""


class NotAFileError(OSError):
    """A folder, pipe or device, where there should be a file."""


def read_bytes(path: Path, error: type[UserError] = UserError, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a file.

    Args:
        path: a file, or a link to one; what would block or never end (a pipe, a device) is refused.
        error: the class of what is raised.
        most_bytes: the size above which it is refused.

    Raises:
        UserError: of the class `error`; one line that names the file and the reason.
    """
    name = one_line(path)
    try:
        content = bytearray()
        with open_file(path) as file:  # in pieces: room is made for all that is asked for at once
            while len(content) <= most_bytes and (piece := file.read(_PIECE_BYTES)):
                content += piece
    except FileNotFoundError as missing:
        raise error(f"{name}: no such file") from missing
    except NotAFileError as reason:
        raise error(f"{name}: {reason.strerror}") from reason
    except (OSError, ValueError) as reason:  # ValueError: a zero byte in the name
        said = reason.strerror if isinstance(reason, OSError) else None
        raise error(f"{name}: cannot be read: {said or reason}") from reason
    if len(content) > most_bytes:
        raise error(f"{name}: larger than {most_bytes / 2**20:g} MiB")
    return bytes(content)


def open_file(path: Path) -> BinaryIO:
    """A file of any size, to be read piece by piece.

    Raises:
        NotAFileError: it would block or never end.
        OSError: it cannot be opened.
    """
    # A pipe that nobody writes to would block while it is opened.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAFileError(errno.EINVAL, "not a regular file")
    return open(descriptor, "rb")


def own_file(folder: Path, name: str, error: type[UserError] = UserError) -> Path:
    """A file in a folder of somebody else; it may be missing.

    Raises:
        UserError: of the class `error`: it is a link out of the folder, to a file of whoever reads it.
    """
    path = folder / name
    if path.is_symlink():
        try:
            inside = path.resolve().is_relative_to(folder.resolve())
        except (OSError, RuntimeError) as reason:  # RuntimeError: before Python 3.13, a link that leads to itself
            raise error(f"{one_line(path)}: a link that leads nowhere") from reason
        if not inside:
            raise error(f"{one_line(path)}: a link out of its folder; put the file itself there, or name the file")
    return path


def read_text(path: Path, error: type[UserError] = UserError, most_bytes: int = MOST_BYTES) -> str:
    """The text of a file: UTF-8, with a byte order mark or without.

    Raises:
        UserError: see `read_bytes`; it is no UTF-8.
    """
    try:
        return read_bytes(path, error, most_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise error(f"{one_line(path)}: not UTF-8: {reason}") from reason


def read_json(path: Path, error: type[UserError] = UserError, most_bytes: int = MOST_BYTES) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: see `read_text`; it is no JSON, or nested too deeply.
    """
    return parse_json(read_text(path, error, most_bytes), one_line(path), error)


def parse_json(text: str | bytes, where: str, error: type[UserError] = UserError) -> Any:
    """What a JSON text holds; `where` begins the error's line, such as a file's name and a line's number.

    Raises:
        UserError: of the class `error`: it is no JSON, nested too deeply, or of more values than `MOST_VALUES`.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        refuse_many_values(text, where, error)
        return json.loads(text)
    except RecursionError as reason:
        raise error(f"{where}: JSON that is nested too deeply") from reason
    except ValueError as reason:  # also numbers of thousands of digits, and bytes that are no UTF-8
        raise error(f"{where}: not JSON: {one_line(reason)}") from reason


def refuse_many_values(text: str, where: str, error: type[UserError] = UserError) -> None:
    """See that a JSON text has no more than `MOST_VALUES` values, before it is parsed.

    Raises:
        UserError: of the class `error`; the line begins with `where`.
    """
    if _separators(text, 0, len(text)) > MOST_VALUES and _has_many_values(text):
        raise error(f"{where}: JSON of more than {MOST_VALUES:,} values, which is not read")


def _separators(text: str, start: int, stop: int) -> int:
    """At least the number of values in a part of a JSON text: each follows a comma or begins an object or a list."""
    return sum(text.count(sign, start, stop) for sign in ",[{")


def _has_many_values(text: str) -> bool:
    """Whether this is so without what looks like separators in texts, such as programs and their tests."""
    found, at = 0, 0
    for count, string in enumerate(_TEXT.finditer(text)):
        found += _separators(text, at, string.start())
        at = string.end()
        if found > MOST_VALUES or count > 2 * MOST_VALUES:  # a name and its value have one separator
            return True
    return found + _separators(text, at, len(text)) > MOST_VALUES
