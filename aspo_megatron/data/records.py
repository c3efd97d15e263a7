"""Problems as their source has them, many of them in little memory."""

from __future__ import annotations

import hashlib
import json
import pickle
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from aspo_megatron.data.samples import IntArray
from aspo_megatron.errors import ConfigError

_ID_BYTES = 16


@dataclass(frozen=True)
class ProblemRecord:
    """A problem as its source has it, not yet tokenised. `metadata` holds the source's other fields.

    `messages` are the turns of a chat before the question, each with `role` and `content`.
    """

    id: str
    question: str
    answer: str | None
    metadata: Mapping[str, Any]
    messages: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class Naming:
    """How the records of a source are called: by their own `id` field, or `<name>-<number>`."""

    name: str
    own: bool

    def of(self, number: int, metadata: Mapping[str, Any]) -> str:
        """The id of the record with this number (from 0) in its source."""
        return str(metadata["id"]) if self.own else f"{self.name}-{number}"


class Records(Sequence[ProblemRecord]):
    """The records of a source, in its order. Each is bytes, and an object only while somebody looks at it.

    `blob[bounds[i]:bounds[i + 1]]` is a record.
    """

    def __init__(self, naming: Naming, blob: bytearray, bounds: IntArray, identities: np.ndarray) -> None:
        self.naming, self.blob, self.bounds, self._identities = naming, blob, bounds, identities

    def __len__(self) -> int:
        """How many there are."""
        return len(self.bounds) - 1

    def take_identities(self) -> np.ndarray:
        """The SHA-256 of each text without the spaces around it, [n, 4], as numbers in the order of the hashes.

        To a chat's text belong its earlier turns. They are forgotten then: those of a million problems take a third of
        the memory.
        """
        identities, self._identities = self._identities, self._identities[:0]
        return identities

    @overload
    def __getitem__(self, index: int) -> ProblemRecord: ...

    @overload
    def __getitem__(self, index: slice) -> list[ProblemRecord]: ...

    def __getitem__(self, index: int | slice) -> ProblemRecord | list[ProblemRecord]:
        """A record, or a list of some."""
        places = range(len(self))[index]
        return self._record(places) if isinstance(places, int) else [self._record(place) for place in places]

    def _record(self, number: int) -> ProblemRecord:
        start, stop = self.bounds[number : number + 2].tolist()
        question, answer, metadata, messages = pickle.loads(memoryview(self.blob)[start:stop])
        return ProblemRecord(self.naming.of(number, metadata), question, answer, metadata, messages)


class Gathering:
    """Takes the records of a source one by one."""

    def __init__(self) -> None:
        self._blob = bytearray()
        self._bounds = array("q", [0])
        self._identities = bytearray()
        self._ids: bytearray | None = bytearray()

    def __len__(self) -> int:
        """How many have been taken."""
        return len(self._bounds) - 1

    def add(
        self,
        where: str,
        question: str,
        answer: str | None,
        metadata: Mapping[str, Any],
        messages: tuple[dict[str, str], ...] = (),
    ) -> None:
        """Take a record; `where` it is from begins the line of an error.

        Raises:
            ConfigError: its fields are of a kind that other processes cannot be given, or nested too deeply.
        """
        try:
            self._blob += pickle.dumps((question, answer, metadata, messages), pickle.HIGHEST_PROTOCOL)
        except RecursionError as error:
            raise ConfigError(f"{where}: a field is nested too deeply") from error
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ConfigError(f"{where}: a field cannot be handed to the ranks: {error}") from error
        self._bounds.append(len(self._blob))
        # The template is no part of what makes two problems the same: another one must not change the split.
        self._identities += hashlib.sha256(_identity(question, messages).encode()).digest()
        if metadata.get("id") is None:
            self._ids = None
        elif self._ids is not None:
            self._ids += hashlib.blake2b(str(metadata["id"]).encode(), digest_size=_ID_BYTES).digest()

    def records(self, name: str) -> Records:
        """All of them. Ids are their own if every record has one and no two agree, else `<name>-<number>`."""
        bounds: IntArray = np.frombuffer(self._bounds, dtype=np.int64)
        # Big-endian numbers are in the order of the bytes.
        identities = np.frombuffer(self._identities, dtype=">u8").astype(np.uint64).reshape(-1, 4)
        return Records(Naming(name, self._have_own_ids()), self._blob, bounds, identities)

    def _have_own_ids(self) -> bool:
        if self._ids is None:
            return False
        ids = np.frombuffer(self._ids, dtype=np.uint64).reshape(-1, _ID_BYTES // 8)
        return len(ids) == 0 or int(kinds(ids).max()) == len(ids) - 1


def _identity(question: str, messages: tuple[dict[str, str], ...]) -> str:
    """What is the same for problems that are the same: the text, and what was said before."""
    text = question.strip()
    if not messages:
        return text
    return json.dumps([*([turn["role"], turn["content"].strip()] for turn in messages), text])


def kinds(rows: np.ndarray) -> IntArray:
    """A number for each row, [n, k]: from 0 on in the order of rows (first column first), the same for equal rows."""
    order = np.lexsort(rows.T[::-1])
    ranked = rows[order]
    steps = np.any(ranked[1:] != ranked[:-1], axis=1)
    numbers = np.zeros(len(rows), dtype=np.int64)
    numbers[order[1:]] = np.cumsum(steps)
    return numbers
