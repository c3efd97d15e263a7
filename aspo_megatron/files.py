"""The one place through which whole files are written: beside their place first, so that half a file has no name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.foreign_text import one_line


def write_whole(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    r"""Write a file, whose folder is made if need be; what was there stays until the new content is complete.

    Args:
        path: the file.
        content: text is written as UTF-8; what UTF-8 lacks, half of a surrogate pair, as `\udc80`, as JSON has it.
        durable: have it on the disk when this returns.

    Raises:
        UserError: it cannot be written; names it. What was there is as it was.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", errors="backslashreplace")
    with whole_file(path, durable=durable) as partial:
        partial.write_bytes(data)


def json_line(record: Mapping[str, Any], *, strict: bool = False) -> bytes:
    """A line of a file of JSON lines, which reads back the same whatever the machine's locale and the text in it.

    `strict`: NaN and infinity, which JSON lacks, are a ValueError.
    """
    line = json.dumps(record, ensure_ascii=False, allow_nan=not strict) + "\n"
    return line.encode("utf-8", errors="backslashreplace")  # half of a surrogate pair, as JSON has it


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Gives a path to write to, which takes the place of `path` when the block ends, and is removed if it fails.

    What is there and is no file, such as /dev/stdout, is written itself; behind a link, what the link leads to.

    Raises:
        UserError: it cannot be written (to a pipe, as nobody reads it); names it. What was there is as it was.
    """
    with plain_errors(path):
        target = Path(os.path.realpath(path))
        if path.exists() and not path.is_file():
            with _read_by_somebody(path):
                yield path
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        partial.unlink(missing_ok=True)  # what a link of this name leads to would be written
        try:
            yield partial
            if durable:
                to_disk(partial)
            os.replace(partial, target)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        if durable:
            to_disk(target.parent)


@contextmanager
def _read_by_somebody(path: Path) -> Iterator[None]:
    """Holds a pipe open meanwhile: opening it once more does not wait for a reader then."""
    if not path.is_fifo():
        yield
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.close(descriptor)


def refuse_link(path: Path, setting: str) -> None:
    """See that what is to be written lies in its folder, whoever has filled that.

    Args:
        path: the file, or folder of files; it may not be there yet.
        setting: what names the folder to the user.

    Raises:
        ConfigError: it is a link, or no regular file; names it.
        OSError: that cannot be told.
    """
    if path.is_symlink() or (os.path.lexists(path) and not (path.is_file() or path.is_dir())):
        what = "a link" if path.is_symlink() else "not a regular file"
        raise ConfigError(
            f"{setting}: {one_line(path)}: {what}, but files are written only inside their folder; remove it"
        )


def to_disk(path: Path) -> None:
    """Have the kernel write a file or folder to the disk.

    Raises:
        OSError: it cannot.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turns an OSError, and a name that the machine's locale lacks, into one line that names the file."""
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UserError(f"{one_line(path)}: cannot be written: {reason or error}") from error
