"""Problems that are ready to be asked, a million of them in little memory, and on their way to another process."""

from __future__ import annotations

import hashlib
import json
import mmap
import pickle
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from aspo_megatron.data.records import Naming, Records
from aspo_megatron.data.samples import IntArray, Problem

_COLUMNS = {"numbers": "<i8", "records": "<i8", "spans": "<i8", "keys": "<u8", "tokens": "<i4"}
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class _Columns:
    """What a store is made of. Row i of all but `tokens` is problem i.

    `numbers`: its number in its source. `records`: [n, 2], where its record is in the blob. `spans`: [n, 2], where its
    prompt is among the `tokens`. `keys`: hash of its id.
    """

    numbers: IntArray
    records: IntArray
    spans: IntArray
    keys: np.ndarray
    tokens: np.ndarray


class ProblemStore(Sequence[Problem]):
    """Problems, in their order. A problem is made when it is asked for, and forgotten with whoever has asked.

    `digest`: a hash of all problems and their order; "" for a part of a store. `repeated`: how many of the source were
    left out as they repeat another.
    """

    def __init__(
        self,
        naming: Naming,
        blob: bytes | bytearray | memoryview,
        columns: _Columns,
        digest: str,
        repeated: int = 0,
    ) -> None:
        self._naming, self._blob, self._columns, self.digest = naming, memoryview(blob), columns, digest
        self.repeated = repeated

    def __len__(self) -> int:
        """How many there are."""
        return len(self._columns.numbers)

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        """A problem, or a list of some."""
        places = range(len(self))[index]
        return self._problem(places) if isinstance(places, int) else [self._problem(place) for place in places]

    def __eq__(self, other: object) -> bool:
        """Whether the problems are those of another sequence."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _problem(self, place: int) -> Problem:
        columns = self._columns
        begin, end = columns.records[place].tolist()
        start, stop = columns.spans[place].tolist()
        question, answer, metadata, _ = pickle.loads(self._blob[begin:end])
        name = self._naming.of(int(columns.numbers[place]), metadata)
        return Problem(name, question, tuple(columns.tokens[start:stop].tolist()), answer, metadata)

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest one; 0 without problems."""
        spans = self._columns.spans
        return int((spans[:, 1] - spans[:, 0]).max(initial=0))

    # ---- what a run asks of it -------------------------------------------------------------------------------

    def deal(self, parts: Sequence[Sequence[int]], rank: int) -> list[Problem]:
        """The problems of `parts[rank]`; see `Dealer`."""
        return [self[place] for place in parts[rank]]

    def to_all(self, places: Sequence[int]) -> list[Problem]:
        """The problems at these places."""
        return [self[place] for place in places]

    def answered(self) -> ProblemStore:
        """Those that have an answer."""
        return self._select([place for place, problem in enumerate(self) if problem.answer is not None])

    def first(self, count: int | None) -> ProblemStore:
        """The first `count` problems, or all."""
        return self if count is None or count >= len(self) else self._select(range(count))

    def named(self, ids: Iterable[str]) -> dict[str, Problem]:
        """The problems with these ids, as far as they are there."""
        found = {}
        for wanted in set(ids):
            for place in np.flatnonzero(self._columns.keys == _key(wanted)).tolist():
                problem = self[place]
                if problem.id == wanted:
                    found[wanted] = problem
        return found

    def _select(self, places: Sequence[int]) -> ProblemStore:
        rows = np.array(places, dtype=np.int64)
        own = self._columns
        columns = _Columns(own.numbers[rows], own.records[rows], own.spans[rows], own.keys[rows], own.tokens)
        return ProblemStore(self._naming, self._blob, columns, "")

    # ---- on its way to another process -----------------------------------------------------------------------

    def write(self, file: BinaryIO) -> None:
        """Write all of it, for `read_stores`.

        Raises:
            OSError: there is no room.
        """
        own = self._columns
        bounds = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum(own.records[:, 1] - own.records[:, 0], out=bounds[1:])
        columns = {
            "numbers": own.numbers,
            "records": np.stack([bounds[:-1], bounds[1:]], axis=1),
            "spans": own.spans,
            "keys": own.keys,
            "tokens": own.tokens,
        }
        header = {
            "name": self._naming.name,
            "own": self._naming.own,
            "digest": self.digest,
            "repeated": self.repeated,
            "lengths": {name: column.size for name, column in columns.items()},
            "blob": int(bounds[-1]),
        }
        text = json.dumps(header).encode()
        file.write(text + _padding(len(text) + 1) + b"\n")
        for name, kind in _COLUMNS.items():
            column = np.ascontiguousarray(columns[name], dtype=kind)
            file.write(column.tobytes() + _padding(column.nbytes))
        for first in range(0, len(self), _ROWS_AT_ONCE):
            rows = own.records[first : first + _ROWS_AT_ONCE].tolist()
            file.write(b"".join(self._blob[begin:end] for begin, end in rows))
        file.write(_padding(int(bounds[-1])))


def read_stores(path: Path, count: int) -> list[ProblemStore]:
    """The stores that `ProblemStore.write` has written one after the other. Their memory is the file's.

    The file is one of the product's own processes; a user's is never read so.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    stores = []
    at = 0
    for _ in range(count):
        stop = content.find(b"\n", at)
        header: dict[str, Any] = json.loads(content[at:stop])
        at = stop + 1
        columns = {}
        for name, kind in _COLUMNS.items():
            columns[name] = np.frombuffer(content, dtype=kind, count=header["lengths"][name], offset=at)
            at = _padded(at + columns[name].nbytes)
        pairs = {name: columns[name].reshape(-1, 2) for name in ("records", "spans")}
        blob = memoryview(content)[at : at + header["blob"]]
        at = _padded(at + header["blob"])
        naming = Naming(header["name"], header["own"])
        own = _Columns(**{**columns, **pairs})
        stores.append(ProblemStore(naming, blob, own, header["digest"], header["repeated"]))
    return stores


class StoreBuilder:
    """Makes a store of some of a source's records, as their prompts are tokenised."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._numbers, self._bounds, self._keys = array("q"), array("q", [0]), array("Q")
        self._tokens = array("i")
        self._digest = hashlib.sha256()

    def add(self, number: int, problem: Problem) -> None:
        """Take the problem that the record with this number has become."""
        self._numbers.append(number)
        self._tokens.extend(problem.prompt_ids)
        self._bounds.append(len(self._tokens))
        self._keys.append(_key(problem.id))
        self._digest.update(digested(problem))

    def store(self, repeated: int) -> ProblemStore:
        """All of them; `repeated`: how many of the source are not among them as they repeat another."""
        numbers = _as_array(self._numbers, np.int64)
        bounds = _as_array(self._bounds, np.int64)
        records = np.stack([self._records.bounds[numbers], self._records.bounds[numbers + 1]], axis=1)
        columns = _Columns(
            numbers,
            records,
            np.stack([bounds[:-1], bounds[1:]], axis=1),
            _as_array(self._keys, np.uint64),
            _as_array(self._tokens, np.int32),
        )
        return ProblemStore(self._records.naming, self._records.blob, columns, self._digest.hexdigest(), repeated)


def _as_array(values: array[int], dtype: type[np.generic]) -> np.ndarray:
    return np.frombuffer(values, dtype=dtype)


def digested(problem: Problem) -> bytes:
    """What the digest of a store is made of. Saved states hold such digests: a change would not know their problems."""
    return repr((problem.id, problem.prompt_ids, problem.answer)).encode()


def empty_store() -> ProblemStore:
    """No problem."""
    pairs = np.zeros((0, 2), dtype=np.int64)
    none = pairs[:, 0]
    columns = _Columns(none, pairs, pairs, none.astype(np.uint64), none.astype(np.int32))
    return ProblemStore(Naming("", own=False), b"", columns, hashlib.sha256().hexdigest())


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _padded(length: int) -> int:
    """Every part begins at a multiple of 8, where numbers of 8 bytes are read at once."""
    return -(-length // 8) * 8


def _padding(length: int) -> bytes:
    return b" " * (_padded(length) - length)
