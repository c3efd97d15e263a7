"""The rows of CSV and TSV files: a line with the names of the columns, then a problem in each row."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator

from aspo_megatron.data.bad_problems import Reason, Row
from aspo_megatron.data.sources.jsonl import MOST_LINE_BYTES, ByteSource, decoded, show
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import counted, one_line
from aspo_megatron.reading import MOST_VALUES

MOST_FIELD_CHARACTERS = 2**25
"""A longer field is not read. What a quote that is never closed begins is as long as the rest of the file."""

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""What separates the fields of a file whose name ends so."""

_SIGNS = {",": "commas", "\t": "tabs", ";": "semicolons"}
_ROWS_BETWEEN_REPORTS = 4096


def table_rows(file: ByteSource, name: str, suffix: str, key: str, tell: Callable[[str], None]) -> Iterator[Row]:
    """Each row, as texts by the names of the columns, with the file and the line that it begins on.

    Rows without any text are left out, and so are columns without a name, such as the index that pandas writes.

    Args:
        file: what is read.
        name: how errors call it.
        suffix: a key of `DELIMITERS`.
        key: the configuration key of the source, e.g. `data.train`.
        tell: told now and then how many rows are read.

    Raises:
        ConfigError: the file cannot be read on: its quotes are wrong, or its first line does not name its columns.
    """
    table = _Table(file, name, DELIMITERS[suffix])
    columns: list[str] | None = None
    for number, (where, fields, flaw) in enumerate(table.rows(), start=1):
        if number % _ROWS_BETWEEN_REPORTS == 0:
            tell(f"{key}: {number:,} rows read")
        if columns is None:
            if flaw is not None:
                raise ConfigError(flaw.text)
            columns = _columns(fields, where, DELIMITERS[suffix])
        elif flaw is not None:
            yield where, flaw
        elif len(fields) != len(columns):
            yield where, _uneven(fields, columns, where)
        else:
            yield where, {column: field for column, field in zip(columns, fields, strict=True) if column}


def _columns(fields: list[str], where: str, delimiter: str) -> list[str]:
    """The names in the first row.

    Raises:
        ConfigError: a name is there twice, or the fields are separated by another sign.
    """
    columns = [field.strip() for field in fields]
    others = [sign for sign in _SIGNS if sign != delimiter and sign in columns[0]]
    if len(columns) == 1 and others:
        cure = "name the file .tsv" if others[0] == "\t" else f"save it with {_SIGNS[delimiter]}"
        raise ConfigError(
            f"{where}: the names of the columns are separated by {_SIGNS[others[0]]}, not {_SIGNS[delimiter]}; {cure}"
        )
    twice = [column for column, times in Counter(columns).items() if times > 1 and column]
    if twice:
        raise ConfigError(f"{where}: two columns are named {show(twice[0])}; name each once")
    return columns


def _uneven(fields: list[str], columns: list[str], where: str) -> Reason:
    what = "more fields than columns" if len(fields) > len(columns) else "fewer fields than columns"
    hint = "; put texts with a separator or a quote in them in quotes" if len(fields) > len(columns) else ""
    return Reason(
        what, f"{where}: {counted(len(fields), 'field')}, but the first line names {len(columns):,} columns{hint}"
    )


class _Table:
    """Rows of texts out of lines of bytes. How much of a file one row takes is bounded."""

    def __init__(self, file: ByteSource, name: str, delimiter: str) -> None:
        self._file, self._name, self._delimiter = file, name, delimiter
        self._line = 0
        self._begin()

    def rows(self) -> Iterator[tuple[str, list[str], Reason | None]]:
        """The line, the fields, and what is wrong with the text of each row that has any."""
        reader = csv.reader(self._lines(), delimiter=self._delimiter, strict=True)
        while (fields := self._next(reader)) is not None:
            where, flaw = f"{self._name}:{self._first}", self._flaw
            self._begin()
            if any(field.strip() for field in fields):
                yield where, fields, flaw

    def _begin(self) -> None:
        """A row begins on the next line."""
        self._first, self._bytes, self._separators = self._line + 1, 0, 0
        self._flaw: Reason | None = None

    def _next(self, reader: Iterator[list[str]]) -> list[str] | None:
        before = csv.field_size_limit(MOST_FIELD_CHARACTERS)  # of all readers in the process
        try:
            return next(reader, None)
        except csv.Error as error:
            raise ConfigError(f"{self._name}:{self._first}: {self._explained(str(error))}") from error
        finally:
            csv.field_size_limit(before)

    def _explained(self, reason: str) -> str:
        if "field larger" in reason:
            return f"a field of more than {MOST_FIELD_CHARACTERS:,} characters; is a quote not closed?"
        if "unexpected end" in reason:
            return "the file ends within quotes; close them, and write a quote within quotes twice"
        if "new-line" in reason:
            return "a line ends with CR alone; save the file with the ends of lines of Unix or Windows"
        return f"not valid CSV ({one_line(reason)}); write a quote within quotes twice"

    def _lines(self) -> Iterator[str]:
        while True:
            where = f"{self._name}:{self._line + 1}"
            try:
                raw = self._file.readline(MOST_LINE_BYTES + 1)
            except OSError as error:
                raise ConfigError(f"{where}: cannot be read: {one_line(error.strerror or error)}") from error
            if not raw:
                return
            self._line += 1
            self._bytes += len(raw)
            self._separators += raw.count(self._delimiter.encode())
            if self._bytes > MOST_LINE_BYTES or self._separators > MOST_VALUES:
                most = f"{MOST_LINE_BYTES >> 20} MiB or {MOST_VALUES:,} fields"
                raise ConfigError(f"{self._name}:{self._first}: a row of more than {most}; is a quote not closed?")
            line = decoded(raw, where)
            if isinstance(line, Reason):
                self._flaw = self._flaw or line
                line = raw.decode("utf-8-sig", errors="replace")
            yield line
