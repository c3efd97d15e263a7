"""The files that problems are in: which they are, opened so that none blocks or unpacks without end, and their rows."""

from __future__ import annotations

import glob
import gzip
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from aspo_megatron.data.bad_problems import Row
from aspo_megatron.data.sources.hub import BUILDERS
from aspo_megatron.data.sources.json_list import HEAD_BYTES, is_spread, list_rows, list_start, object_rows
from aspo_megatron.data.sources.jsonl import ByteSource, json_lines
from aspo_megatron.data.sources.rows import key_of
from aspo_megatron.data.sources.tables import DELIMITERS, table_rows
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line, sought_in

MOST_UNPACKED = 2**30
MOST_TIMES = 250
"""A compressed file is not read on when it gives more than so many bytes, and so many times its own size."""

WHAT = "give a JSONL, JSON, CSV or Parquet file"
_SUFFIXES = {
    ".jsonl": "JSON", ".ndjson": "JSON", ".json": "JSON", ".parquet": "Parquet", ".csv": "CSV", ".tsv": "TSV",
}  # fmt: skip
_NO_PROBLEMS = ("dataset_infos.json",)
"""Files that say something about the others in a folder from the Hub."""

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_OTHER_FORMATS = {
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unzstd it",
    b"BZh": "compressed by bzip2; bunzip2 it",
    b"\xfd7zXZ": "compressed by xz; unxz it",
    b"PK\x03\x04": "a zip archive; unzip it, or if it is a spreadsheet, save it as CSV (UTF-8)",
    b"ARROW1": "an Arrow file; set kind: huggingface",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
}
"""What a file is that begins so."""

_SPLIT = re.compile(r"(?<![a-z])(train|test|valid|val|dev|eval)(ing|idation|uation)?(?![a-z])", re.IGNORECASE)


def has_known_suffix(path: Path) -> bool:
    """Whether a name says that a file is of a format that is read here."""
    return _format(path) is not None


def stem_of(path: Path) -> str:
    """A file's name without what says its format."""
    return Path(path.stem).stem if path.suffix == ".gz" else path.stem


def is_table(path: Path) -> bool:
    """Whether a name says that a file has rows of texts, which nothing in it tells."""
    return _suffix(path) in DELIMITERS


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _format(path: Path) -> str | None:
    return _SUFFIXES.get(_suffix(path))


def source_files(given: str | tuple[str, ...], key: str) -> tuple[str, list[Path]]:
    """The files that a source's path means, and what problems in them are called by.

    Args:
        given: files, patterns of such, or folders of them.
        key: the configuration key of the source; errors name it.

    Raises:
        ConfigError: a pattern fits none, or what a folder holds is not clear.
    """
    texts = (given,) if isinstance(given, str) else given
    found: list[Path] = []
    for text in texts:
        path = expanded(text, key)
        if os.path.isdir(path):
            found += _files_in(path, key)
        elif os.path.lexists(path) or not glob.has_magic(str(path)):
            found.append(path)
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
            found += [match for match in matches if not os.path.isdir(match)]
            if not found or found[-1] not in matches:
                raise ConfigError(f"{key_of(key, 'path')}: no file matches {one_line(text)}")
    if not found:
        raise ConfigError(f"{key_of(key, 'path')}: names no file; {WHAT}")
    first = expanded(texts[0], key)
    return first.name if os.path.isdir(first) else stem_of(found[0]), found


def expanded(text: str, key: str) -> Path:
    """A path, with `~` replaced.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{key_of(key, 'path')}: {one_line(text)}: {one_line(error)}") from error


def _files_in(folder: Path, key: str) -> list[Path]:
    """The files of problems in a folder, in the order of their names."""
    where = f"{key_of(key, 'path')}: {one_line(folder)}"
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from error
    if {"dataset_dict.json", "dataset_info.json"} & set(names):
        raise ConfigError(f"{where} is a dataset that `datasets` has saved; set kind: huggingface")
    files = _with_known_suffix(folder, names)
    if not files:
        folders = (folder / name for name in names if os.path.isdir(folder / name))
        inner = next((path for path in folders if _with_known_suffix(path, _names(path))), None)
        if inner is not None:
            raise ConfigError(f"{where} is a folder without files of problems; give {one_line(inner)}, which has some")
        raise ConfigError(f"{where} is a folder without .jsonl, .json, .csv or .parquet files; {WHAT}")
    splits = {split[1].lower() for file in files if (split := _SPLIT.search(file.name))}
    if len(splits) > 1 or len({_format(file) for file in files}) > 1:
        several = "splits" if len(splits) > 1 else "formats"
        example = next((file for file in files if "train" in file.name.lower()), files[0])
        raise ConfigError(
            f"{where} has files of several {several} ({one_line(', '.join(file.name for file in files))[:200]}); name "
            f"those to be read, e.g. {one_line(example)}, or a pattern"
        )
    return files


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _with_known_suffix(folder: Path, names: list[str]) -> list[Path]:
    """The files with problems among those of these names."""
    files = [folder / name for name in names if not name.startswith(".") and name not in _NO_PROBLEMS]
    return [file for file in files if has_known_suffix(file) and not os.path.isdir(file)]


def file_rows(path: Path, key: str, prompt_field: str, tell: Callable[[str], None]) -> Iterator[Row]:
    """The rows of a file: JSONL, JSON or Parquet by what is in it, CSV by its name; perhaps compressed by gzip.

    Args:
        path: the file; what would block, never end, or not be the same when it is read again is refused.
        key: the configuration key of the source, e.g. `data.train`.
        prompt_field: the field with the question, which tells a problem from what is around problems.
        tell: told now and then how many lines are read.

    Raises:
        ConfigError: the file cannot be read.
    """
    name = one_line(path)
    with open_source(path, key) as file:
        if path.suffix in BUILDERS:
            cure = "write it as JSONL" if key.startswith("-") else f"set {key_of(key, 'kind')}=huggingface"
            raise ConfigError(f"{name}: {WHAT}, or {cure}")
        start = _read(file, 8, name)
        if start.startswith(_PARQUET):
            from aspo_megatron.data.sources.parquet import parquet_rows

            yield from parquet_rows(file, name, key)
            return
        content: BinaryIO | _Unpacked = file
        if start.startswith(_GZIP):
            content = _Unpacked(file, name)
            start = content.read(8)
            if start.startswith((_PARQUET, _GZIP)):
                raise ConfigError(f"{name}: holds a compressed file; gunzip it")
            content.seek(0)
        for beginning, what in _OTHER_FORMATS.items():
            if start.startswith(beginning):
                raise ConfigError(f"{name}: not UTF-8 text: the file is {what}")
        content.seek(0)
        if is_table(path):
            yield from table_rows(content, name, _suffix(path), key, tell)
            return
        head = _read(content, HEAD_BYTES, name)
        beginning_of_list = list_start(head, prompt_field)
        content.seek(0)
        if beginning_of_list is not None:
            yield from list_rows(content, beginning_of_list, name)
        elif is_spread(head):
            yield from object_rows(content, name)
        else:
            yield from json_lines(content, name, key, tell)


def open_source(path: Path, key: str) -> BinaryIO:
    """A file, opened.

    Raises:
        ConfigError: there is none, or it is no file.
    """
    name, where = one_line(path), key_of(key, "path")
    try:
        # A pipe that nobody writes to would block while it is opened.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.fstat(descriptor).st_mode
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: {name} does not exist{sought_in(path)}; {WHAT}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{where}: {name} cannot be read: {one_line(reason)}; {WHAT}") from error
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device; write what it gives into a file"
        raise ConfigError(f"{where}: {name} is {what}; {WHAT}")
    return os.fdopen(descriptor, "rb")


def _read(file: ByteSource, size: int, name: str) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {one_line(error.strerror or error)}") from error


class _Unpacked:
    """What a file that is compressed by gzip holds.

    Raises, from all that reads:
        ConfigError: it is damaged, or holds very much more than it is large.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._most = max(MOST_UNPACKED, MOST_TIMES * os.fstat(file.fileno()).st_size)
        file.seek(0)
        self._file, self._name, self._given = gzip.GzipFile(fileobj=file), name, 0

    def seek(self, offset: int) -> None:
        """Begin again: `offset` is 0."""
        self._file.seek(offset)
        self._given = 0

    def read(self, size: int, /) -> bytes:
        """So many bytes; fewer only at the end."""
        return self._bounded(self._file.read, size)

    def readline(self, size: int, /) -> bytes:
        """A line, or so many bytes of it."""
        return self._bounded(self._file.readline, size)

    def _bounded(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            content = read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ConfigError(f"{self._name}: damaged: the gzip data cannot be unpacked ({error})") from error
        self._given += len(content)
        if self._given > self._most:
            raise ConfigError(
                f"{self._name}: unpacks to more than {self._most >> 20:,} MiB, {MOST_TIMES} times its size or more; "
                "gunzip it if that is right"
            )
        return content
