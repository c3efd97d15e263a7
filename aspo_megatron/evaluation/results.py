"""An evaluation on disk: every response as a line of JSON, the scores beside them; a killed one goes on from there."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeGuard, get_args

from aspo_megatron.data.thinking import Thinking
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.evaluation.scores import Scores
from aspo_megatron.files import json_line, plain_errors, refuse_link, write_whole
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import MOST_BYTES, open_file, parse_json, read_json

ResponseRecord = dict[str, Any]

CORRECT = 1.0
"""The reward from which a response counts as right."""

SCORES_SUFFIX = ".scores.json"
_LARGEST = 2**53


def scores_path(responses: Path) -> Path:
    """Where the scores are of the responses in a file."""
    return responses.with_suffix(SCORES_SUFFIX)


@dataclass(frozen=True)
class EvaluationDescription:
    """Which evaluation it is.

    Attributes:
        benchmark: name of the problem set, for tables.
        model: name of the model, for tables.
        problems: how many problems are asked.
        samples: K.
        pass_k: the k of pass@k.
        identity: all that decides what comes out, JSON values by key: a file whose own differs is not gone on with.
        thinking: what the prompts ask for, see `data.thinking`; None: not known.
    """

    benchmark: str
    model: str
    problems: int
    samples: int
    pass_k: tuple[int, ...]
    identity: Mapping[str, Any]
    thinking: Thinking | None = None


class ResultFile:
    """The responses of one evaluation, of whole problems only. Use as a context manager, in one process.

    Attributes:
        right: right responses to each problem that is done, by the problem's number.
        failed: responses that could not be scored, which count as wrong.
        first_failure: what kept the first of them from being scored.
    """

    def __init__(self, path: Path, description: EvaluationDescription) -> None:
        """Open or begin the file. A last problem that is not whole, as a kill may leave it, is cut off.

        Raises:
            ConfigError: the file holds another evaluation (says what differs) or something else, or is a link.
            UserError: it cannot be written, is damaged, or is being written by another process.
        """
        self.path, self._description = path, description
        self.right: dict[int, int] = {}
        self._name = one_line(path)
        self._tokens = self._cut = self.failed = 0
        self.first_failure = ""
        with plain_errors(path):
            for file in (path, scores_path(path)):
                refuse_link(file, "--output")
            self._refuse_another()
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what the full disk refused would be written once more on closing.
            self._file = path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise UserError(f"{self._name}: another process is writing it; give another --output") from error
        except OSError:  # a file system without locks
            pass
        with plain_errors(path):
            self._file.truncate(self._read())
        self._write_scores()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with suppress(OSError):  # all that was appended is on the disk already
            self._file.close()

    @property
    def complete(self) -> bool:
        """Whether all problems are done."""
        return len(self.right) == self._description.problems

    @property
    def scored(self) -> int:
        """How many responses could be scored."""
        return len(self.right) * self._description.samples - self.failed

    def append(self, records: Sequence[ResponseRecord]) -> None:
        """Add all responses to some more problems; on return they survive the death of the process and the machine.

        Raises:
            UserError: they cannot be written (is the disk full?).
        """
        data = b"".join(map(json_line, records))
        with plain_errors(self.path):
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        for record in records:
            self._count(record)
        self._write_scores()

    def scores(self) -> Scores:
        """Of the problems that are done, in their order."""
        return Scores.of(
            (self.right[index] for index in sorted(self.right)), self._description.samples, self._description.pass_k
        )

    def records(self) -> Iterator[ResponseRecord]:
        """All responses."""
        for _, record, _ in self._whole_lines():
            yield record

    def _count(self, record: ResponseRecord) -> None:
        self.right[record["index"]] = self.right.get(record["index"], 0) + int(record["reward"] >= CORRECT)
        self._tokens += record["tokens"]
        self._cut += record["finish_reason"] == "length"
        if record.get("error") is not None:
            self.failed += 1
            self.first_failure = self.first_failure or record["error"]

    def _refuse_another(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_file():
            raise ConfigError(f"{self._name}: not a regular file; give another --output")
        if self.path.stat().st_size == 0:
            return
        beside = scores_path(self.path)
        if not beside.is_file():
            missing = one_line(beside.name)
            raise ConfigError(
                f"{self._name} exists, but is not from `aspo eval` ({missing} is missing); give another --output"
            )
        was = read_scores(beside)["identity"]
        now = json.loads(json.dumps(self._description.identity))
        differing = [
            f"{one_line(key)} {_shown(was.get(key))}, not {_shown(now.get(key))}"
            for key in sorted(was.keys() | now.keys())
            if was.get(key) != now.get(key)
        ]
        if differing:
            raise ConfigError(
                f"{self._name} holds another evaluation: of {'; '.join(differing)}; give another --output, or remove it"
            )

    def _read(self) -> int:
        """Count what is there; where the last whole problem ends, in bytes."""
        whole = end = 0
        group: list[ResponseRecord] = []
        for number, record, size in self._whole_lines():
            end += size
            group.append(record)
            if record["index"] != group[0]["index"] or record["index"] in self.right:
                raise UserError(
                    f"{self._name}:{number}: problem {record['index']} is not where it belongs; the file is damaged, "
                    "remove it"
                )
            if len(group) == self._description.samples:
                for one in group:
                    self._count(one)
                whole, group = end, []
        return whole

    def _whole_lines(self) -> Iterator[tuple[int, ResponseRecord, int]]:
        """Number, record and bytes of each line, but for one at the end that was torn by a kill."""
        with open_file(self.path) as file:
            number = 0
            while line := file.readline(MOST_BYTES):  # a longer line comes in pieces, none of which is a response
                number += 1
                if not line.endswith(b"\n") and len(line) < MOST_BYTES:
                    return
                where = f"{self._name}:{number}"
                try:
                    record = parse_json(line, where)
                    if not self._is_response(record):
                        raise UserError(f"{where}: a value is missing, or of another kind")
                except UserError as error:
                    raise UserError(
                        f"{where}: not a line of JSON that is a response; the file is damaged, remove it"
                    ) from error
                yield number, record, len(line)

    def _is_response(self, record: Any) -> bool:
        """Whether what is counted is there, and can be."""
        if not isinstance(record, dict):
            return False
        index, reward, tokens = (record.get(name) for name in ("index", "reward", "tokens"))
        return (
            _is_count(index)
            and index < self._description.problems
            and (type(reward) is float or (type(reward) is int and abs(reward) <= _LARGEST))
            and _is_count(tokens)
            and isinstance(record.get("finish_reason"), str)
            and isinstance(record.get("error"), str | None)
        )

    def _write_scores(self) -> None:
        description, done = self._description, len(self.right) * self._description.samples
        scores = self.scores()
        content = {
            "benchmark": description.benchmark,
            "model": description.model,
            "complete": self.complete,
            "problems": description.problems,
            "problems_done": len(self.right),
            "samples": description.samples,
            "thinking": description.thinking,
            "interval": "95 %, normal approximation over problems",
            "scores": {name: asdict(estimate) for name, estimate in scores.named().items()},
            "mean_tokens": self._tokens / done if done else None,
            "cut_at_limit": self._cut / done if done else None,
            "failed": self.failed,
            "first_failure": self.first_failure or None,
            "right": list(scores.right),
            "identity": description.identity,
        }
        write_whole(scores_path(self.path), json.dumps(content, indent=2) + "\n")


def read_scores(path: Path) -> dict[str, Any]:
    """What a scores file holds; see `ResultFile`.

    Raises:
        ConfigError: it cannot be read, or is not one.
    """
    if not os.path.lexists(path):
        raise ConfigError(f"{one_line(path)}: cannot be read: no such file or folder")
    content = read_json(path, ConfigError)
    if not isinstance(content, dict):
        raise ConfigError(f"{one_line(path)}: not the scores of an evaluation")
    content.setdefault("failed", 0)  # older files do not say
    content.setdefault("thinking", None)
    for name, is_right in _SCORES.items():
        if name not in content or not is_right(content[name]):
            what = f"`{name}` is of another kind" if name in content else f"no {name!r}"
            raise ConfigError(f"{one_line(path)}: not the scores of an evaluation ({what})")
    done, problems, samples = len(content["right"]), content["problems"], content["samples"]
    if max(content["right"], default=0) > samples or done > problems or (content["complete"] and done < problems):
        raise ConfigError(f"{one_line(path)}: not the scores of an evaluation (`right` does not fit the others)")
    return content


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _LARGEST


_SCORES: dict[str, Callable[[Any], bool]] = {
    "benchmark": lambda value: isinstance(value, str),
    "model": lambda value: isinstance(value, str),
    "complete": lambda value: isinstance(value, bool),
    "problems": _is_count,
    "samples": lambda value: _is_count(value) and value > 0,
    "right": lambda value: isinstance(value, list) and all(map(_is_count, value)),
    "identity": lambda value: isinstance(value, dict),
    "failed": _is_count,
    "thinking": lambda value: value is None or value in get_args(Thinking),
}
"""What a scores file has in any version, and what each value has to be."""


def _shown(value: object) -> str:
    text = "none" if value is None else one_line(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
