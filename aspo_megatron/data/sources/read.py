"""Reads problems from where they are kept: files, Hugging Face datasets, reasoning-gym families."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from aspo_megatron.config import SourceConfig
from aspo_megatron.config.words import OnBad
from aspo_megatron.data.bad_problems import Reason, Unusable
from aspo_megatron.data.records import Gathering, ProblemRecord, Records
from aspo_megatron.data.sources.fields import ANSWERS, PROMPTS, likely
from aspo_megatron.data.sources.files import expanded, file_rows, has_known_suffix, source_files, stem_of
from aspo_megatron.data.sources.jsonl import show
from aspo_megatron.data.sources.rows import BadRowError, RowTaker, Taken
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line

_Row = TypeVar("_Row")

__all__ = ["ProblemRecord", "Records", "read_source"]

_ROWS_BETWEEN_REPORTS = 4096


def silent(text: str) -> None:
    """Shows nothing of how far something is."""


def read_source(
    source: SourceConfig,
    key: str,
    tell: Callable[[str], None] = silent,
    on_bad: OnBad = "refuse",
) -> Records:
    """Read the problems of a source, in its order; at least one.

    Ids are the records' own `id` field if every record has one and no two agree, else `<source>-<index>`.

    Args:
        source: where the problems are.
        key: the configuration key of the source, e.g. `data.train`, or the option of a command; errors name it.
        tell: told now and then how far it is.
        on_bad: whether rows that are no problem are refused, all counted, or left out.

    Raises:
        ConfigError: the source is missing, unreadable or empty, no row has a field that is asked for, or there are
            bad rows.
    """
    name, rows = _named_rows(source, key, tell)
    taker, bad, gathering = RowTaker(source, key), Unusable(key, on_bad), Gathering()
    total = 0
    for where, row in itertools.islice(rows, source.limit):
        total += 1
        if isinstance(row, Reason):
            bad.add(row)
            continue
        try:
            taken = row if isinstance(row, Taken) else taker.take(row, where)
            gathering.add(where, taken.question, taken.answer, taken.other, taken.messages)
        except BadRowError as error:
            bad.add(error.reason)
        except ConfigError as error:
            bad.add(Reason("a field that cannot be kept", str(error)))
    if not total:
        what = source.family if source.path is None else paths_shown(source)
        raise ConfigError(f"{key}: {one_line(what)} holds no problem")
    taker.refuse_absent()
    bad.settle(total)
    return gathering.records(name)


def first_row(source: SourceConfig, key: str) -> Mapping[str, Any]:
    """The fields of a source's first row that can be read; none if there is none.

    Raises:
        ConfigError: the source cannot be read.
    """
    _, rows = _named_rows(source, key, silent)
    return next((row for _, row in rows if isinstance(row, Mapping)), {})


def first_fields(source: SourceConfig, key: str) -> Mapping[str, Any]:
    """As `first_row`; none if the source cannot be read, which `read_source` then says."""
    try:
        return first_row(source, key)
    except ConfigError:
        return {}


def with_likely_fields(source: SourceConfig, key: str) -> SourceConfig:
    """The source with the fields of question and answer that its first row has, by their names.

    Raises:
        ConfigError: the source cannot be read.
    """
    row = first_row(source, key)
    prompt = likely(row, (source.prompt_field, *PROMPTS)) or source.prompt_field
    answer = likely(row, (source.answer_field or "", *ANSWERS), besides=prompt)
    return source.model_copy(update={"prompt_field": prompt, "answer_field": answer})


def paths_shown(source: SourceConfig) -> str:
    """The path of a source, or its paths."""
    return source.path if isinstance(source.path, str) else ", ".join(source.path or ())


def _named_rows(
    source: SourceConfig, key: str, tell: Callable[[str], None]
) -> tuple[str, Iterable[tuple[str, Mapping[str, Any] | Reason | Taken]]]:
    """What the problems of a source are called by, and its rows."""
    if source.kind == "reasoning_gym":
        # The seed belongs to the name: training and held-out problems often come from two seeds of one family.
        return f"{source.family}-{source.seed}", _told(_reasoning_gym_rows(source, key), key, tell)
    if source.kind == "huggingface":
        path = expanded(paths_shown(source), key)
        if not (os.path.isfile(path) and has_known_suffix(path)):
            from aspo_megatron.data.sources.hub import dataset_rows

            name, rows = dataset_rows(source, path, key)
            return name, _told(rows, key, tell)
        name, paths = f"{stem_of(path)}-{source.split}", [path]
    else:
        name, paths = source_files(source.path or (), key)
    parts = (file_rows(path, key, source.prompt_field, tell) for path in paths)
    return name, itertools.chain.from_iterable(parts)


def _told(rows: Iterable[_Row], key: str, tell: Callable[[str], None]) -> Iterator[_Row]:
    for number, row in enumerate(rows, start=1):
        if number % _ROWS_BETWEEN_REPORTS == 0:
            tell(f"{key}: {number:,} problems read")
        yield row


def _reasoning_gym_rows(source: SourceConfig, key: str) -> Iterator[tuple[str, Taken]]:
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
        other = {"family": family, "entry": entry}
        yield where, Taken(_question(entry, source, key), _text(entry["answer"]), other)


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
