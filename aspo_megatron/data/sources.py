"""Reads problems from where they are kept: JSONL files, Hugging Face datasets, reasoning-gym families."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aspo_megatron.config import SourceConfig
from aspo_megatron.data.jsonl import json_lines, show
from aspo_megatron.data.records import Gathering, Record, Records
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line

__all__ = ["Record", "Records", "read_source"]

Fields = tuple[str, str, str | None, dict[str, Any]]
"""Where a record is from, its question, its answer, its other fields."""

_LONGEST_ID = 1000
"""Characters: an id is part of what is shown of a problem."""

_ROWS_BETWEEN_REPORTS = 4096


def silent(text: str) -> None:
    """Shows nothing of how far something is."""


def read_source(source: SourceConfig, key: str, tell: Callable[[str], None] = silent) -> Records:
    """Read the problems of a source, in its order; at least one.

    Ids are the records' own `id` field if every record has one and no two agree, else `<source>-<index>`.

    Args:
        source: where the problems are.
        key: the configuration key of the source, e.g. `data.train`; errors name it.
        tell: told now and then how far it is.

    Raises:
        ConfigError: the source is missing, unreadable or empty, or a record lacks a field that is asked for.
    """
    if source.kind == "jsonl":
        path = file_path(source, key)
        name, rows = path.stem, _jsonl_rows(path, source, key, tell)
    elif source.kind == "huggingface":
        from aspo_megatron.data.hub import dataset_rows

        name, numbered = dataset_rows(source, file_path(source, key), key)
        rows = _told((_take_fields(row, where, source, key) for where, row in numbered), key, tell)
    else:
        # The seed belongs to the name: training and held-out problems often come from two seeds of one family.
        name, rows = f"{source.family}-{source.seed}", _told(_reasoning_gym_rows(source, key), key, tell)
    gathering = Gathering()
    for where, question, answer, other in rows:
        gathering.add(where, question, answer, other)
    if not gathering:
        raise ConfigError(f"{key}: {one_line(source.path or source.family)} holds no problem")
    return gathering.records(name)


def file_path(source: SourceConfig, key: str) -> Path:
    """The path of a source, with `~` replaced.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        return Path(str(source.path)).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{key}.path: {one_line(source.path)}: {one_line(error)}") from error


def _jsonl_rows(path: Path, source: SourceConfig, key: str, tell: Callable[[str], None]) -> Iterator[Fields]:
    rows = (_take_fields(fields, where, source, key) for where, fields in json_lines(path, key, tell))
    return itertools.islice(rows, source.limit)


def _told(rows: Iterable[Fields], key: str, tell: Callable[[str], None]) -> Iterator[Fields]:
    for number, row in enumerate(rows, start=1):
        if number % _ROWS_BETWEEN_REPORTS == 0:
            tell(f"{key}: {number:,} problems read")
        yield row


def _take_fields(fields: Mapping[str, Any], where: str, source: SourceConfig, key: str) -> Fields:
    """Split one record into question, answer and the rest."""
    wanted = {"prompt_field": source.prompt_field}
    if source.answer_field is not None:
        wanted["answer_field"] = source.answer_field
    for option, name in wanted.items():
        if name not in fields:
            there = one_line(", ".join(map(str, itertools.islice(fields, 50)))[:500]) or "none"
            raise ConfigError(f"{where}: no field {show(name)}; the fields there are: {there}. Set {key}.{option}")
    question = fields[source.prompt_field]
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(
            f"{where}: field {show(source.prompt_field)} must be a non-empty text, not {show(question)}; "
            f"choose another with {key}.prompt_field"
        )
    _check_text(question, where, source.prompt_field)
    answer = None
    if source.answer_field is not None:
        answer = _answer(fields[source.answer_field], where, source.answer_field, key)
    other = {name: value for name, value in fields.items() if name not in wanted.values()}
    _check_id(other, where)
    return where, question, answer, other


def _answer(value: object, where: str, field: str, key: str) -> str:
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = ", ".join(value)  # OlympiadBench: the parts of one answer
    finite = not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not finite:
        raise ConfigError(
            f"{where}: field {show(field)} must be a text or a number, not {show(value)}; "
            f"choose another with {key}.answer_field, or null if there are no answers"
        )
    answer = str(value)
    _check_text(answer, where, field)
    return answer


def _check_id(other: Mapping[str, Any], where: str) -> None:
    if other.get("id") is not None:
        name = str(other["id"])
        if len(name) > _LONGEST_ID:
            raise ConfigError(f"{where}: field 'id' has {len(name):,} characters; give a name of at most {_LONGEST_ID}")
        _check_text(name, where, "id")


def _check_text(text: str, where: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where}: field {show(field)} holds half of a surrogate pair; write it anew") from error


def _reasoning_gym_rows(source: SourceConfig, key: str) -> Iterator[Fields]:
    """Draw problems of a family. The other fields are the family and the whole entry, which its scoring needs."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    family = str(source.family)
    if family not in DATASETS:
        near = difflib.get_close_matches(family, DATASETS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"{key}.family: reasoning-gym has no family {show(family)}; the nearest name is {near!r}")
    options = [field.name for field in dataclasses.fields(DATASETS[family][1]) if field.name not in ("seed", "size")]
    for name in source.params:
        if name in ("seed", "size"):
            raise ConfigError(f"{key}.params.{name}: set {key}.{name} instead")
        if name not in options:
            raise ConfigError(f"{key}.params: {family} has no parameter {show(name)}; it has: {', '.join(options)}")
    size = min(source.size, source.limit or source.size)
    # A wrong value shows as an AssertionError of the family's own check, or as any error while a problem is made.
    try:
        dataset = reasoning_gym.create_dataset(family, size=size, seed=source.seed, **source.params)
        entries = iter(dataset)
    except Exception as error:
        raise _refused(source, key, error) from error
    for number in itertools.count(1):
        try:
            entry = next(entries, None)
        except Exception as error:
            raise _refused(source, key, error) from error
        if entry is None:
            return
        where = f"{key}: problem {number} of {family}"
        yield where, _question(entry, source, key), _text(entry["answer"]), {"family": family, "entry": entry}


def _refused(source: SourceConfig, key: str, error: Exception) -> ConfigError:
    reason = one_line(error)[:300] or type(error).__name__
    return ConfigError(f"{key}.params: {source.family} refuses {one_line(source.params)[:300]}: {reason}")


def _question(entry: Mapping[str, Any], source: SourceConfig, key: str) -> str:
    """The whole question, or a field of the entry's metadata, such as the bare `expression` of chain_sum."""
    name = source.prompt_field
    if name == SourceConfig.model_fields["prompt_field"].default:
        return str(entry["question"])
    if name not in entry["metadata"]:
        there = ", ".join(map(str, entry["metadata"]))
        raise ConfigError(f"{key}.prompt_field: {source.family} has no field {show(name)}; it has: {there}")
    return str(entry["metadata"][name])


def _text(value: object) -> str | None:
    """Some families have no single answer; their scoring works from the entry."""
    return None if value is None else str(value)
