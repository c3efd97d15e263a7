"""What a power cut or a full disk leaves in a file of JSON lines: found line by line, named, and set aside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.line_file import LineFile
from aspo_megatron.reading import MOST_BYTES, open_file, parse_json

_LARGEST_STEP = 1 << 53
_SHOWN = 5
_MOST_DAMAGED = 100_000
_MOST_DAMAGED_BYTES = 256 << 20


@dataclass(frozen=True)
class Line:
    """A line as it stands in a file, with its newline. `record`: its JSON object; None if it is damaged."""

    number: int
    data: bytes
    record: dict[str, Any] | None

    @property
    def step(self) -> int:
        """Which step a line that is not damaged is of."""
        assert self.record is not None
        return int(self.record["step"])


def read_lines(path: Path, *, numbers_only: bool) -> Iterator[Line]:
    """The lines of a file; without the last if it has no newline, as a run writes it or was killed as it did.

    Args:
        path: metrics.jsonl, samples.jsonl or the like.
        numbers_only: a line with a value that is no number is damaged, too.

    Raises:
        OSError: the file cannot be read.
        UserError: too much of it is damaged, see `Damage`.
    """
    damage = Damage(path)
    for number, data in bounded_lines(path):
        record = _record(data, numbers_only) if data.endswith(b"\n") else None
        if record is None:
            damage.count(len(data))
        yield Line(number, data, record)


def bounded_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers, but for an unfinished last one that begins as a record does.

    What is longer than any line that is written comes in pieces, none of which is a record.

    Raises:
        OSError: the file cannot be read.
    """
    with open_file(path) as file:
        number = 0
        while data := file.readline(MOST_BYTES):
            number += 1
            if data.endswith(b"\n") or len(data) == MOST_BYTES or not data.startswith(b"{"):
                yield number, data


class Damage:
    """How much of a file is damaged. What an accident leaves is little: a file of nothing else is no run's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = self._bytes = 0

    def count(self, size: int) -> None:
        """One more line, of so many bytes.

        Raises:
            UserError: there are too many; names the file.
        """
        self._lines, self._bytes = self._lines + 1, self._bytes + size
        if self._lines > _MOST_DAMAGED or self._bytes > _MOST_DAMAGED_BYTES:
            raise UserError(
                f"{one_line(self._path)}: {self._lines:,} damaged lines of {self._bytes >> 20} MiB, and perhaps more; "
                "too many for an accident: move the file away"
            )


def set_aside(path: Path, lines: Iterable[Line]) -> Path:
    """Keep damaged lines in a file beside, after those of earlier times; gives its path.

    Raises:
        OSError: it cannot be written.
    """
    aside = LineFile(path.with_name(f"{path.name}.damaged"))
    try:
        for line in lines:
            aside.add(line.data if line.data.endswith(b"\n") else line.data + b"\n")
        aside.write()
        aside.to_disk()
    finally:
        aside.close()
    return aside.path


def named(what: str, numbers: Iterable[int]) -> str:
    """Words for ascending numbers, e.g. `line 2`, `steps 3 to 7, 9`, of many the first few."""
    spans: list[range] = []
    for number in numbers:
        if spans and number == spans[-1].stop:
            spans[-1] = range(spans[-1].start, number + 1)
        else:
            spans.append(range(number, number + 1))
    return named_spans(what, spans)


def named_spans(what: str, spans: Sequence[range]) -> str:
    """As `named`, of numbers that are too many to be counted."""
    ends = [(span.start, span.stop - 1) for span in spans[:_SHOWN]]
    words = [str(first) if first == last else f"{first} to {last}" for first, last in ends]
    one = len(spans) == 1 and " " not in words[0]
    return f"{what}{'' if one else 's'} {', '.join(words)}{' and more' * (len(spans) > _SHOWN)}"


def _record(data: bytes, numbers_only: bool) -> dict[str, Any] | None:
    try:
        record = parse_json(data.decode("utf-8-sig"), "a line")
        step = record["step"]
        if not isinstance(record, dict) or type(step) is not int or not 0 <= step <= _LARGEST_STEP:
            return None
        if numbers_only:
            for value in record.values():
                float(value)
        return record
    except (UserError, ValueError, TypeError, KeyError, OverflowError):
        return None
