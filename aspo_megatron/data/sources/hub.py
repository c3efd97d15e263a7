"""Problems from Hugging Face datasets: a file, a local folder, or a name on the Hub. None of them may run code."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aspo_megatron.config import SourceConfig
from aspo_megatron.data.bad_problems import Row
from aspo_megatron.data.sources.rows import key_of
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line, sought_in

BUILDERS = {".arrow": "arrow"}
"""Of files that only the library reads; it takes any others for text."""

_FILES = {*BUILDERS, ".json", ".jsonl", ".ndjson", ".parquet", ".csv", ".tsv", ".gz"}


def dataset_rows(source: SourceConfig, path: Path, key: str) -> tuple[str, Iterator[Row]]:
    """The name that problems of a dataset's split are called by, and its rows, with where they are.

    Raises:
        ConfigError: it cannot be loaded; also while the rows are drawn.
    """
    try:
        is_file, exists = path.is_file(), path.exists()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{key_of(key, 'path')}: {one_line(path)} cannot be read: {reason}") from error
    if exists and not is_file and not path.is_dir():
        raise ConfigError(
            f"{key_of(key, 'path')}: {one_line(path)} is a pipe or a device; write it into a file and give that"
        )
    dataset = _load_dataset(source, path, key, exists=exists)
    return f"{path.stem if is_file else path.name}-{source.split}", _rows(dataset, source)


def _rows(dataset: Any, source: SourceConfig) -> Iterator[Row]:
    name = one_line(f"{source.path} [{source.split}]")
    rows = iter(dataset)
    for index in range(len(dataset)):
        where = f"{name} row {index}"
        # Whatever a damaged file, or the decoder of a picture in it, does.
        try:
            row = next(rows)
        except Exception as error:
            raise ConfigError(f"{where}: cannot be read: {_reason(error)}") from error
        yield where, row


def _load_dataset(source: SourceConfig, path: Path, key: str, *, exists: bool) -> Any:
    """The split of a dataset: a file, a local folder (also one made by `save_to_disk`), or a name on the Hub."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"{key_of(key, 'kind')}: huggingface needs the package `datasets` ({error}); run: pip install datasets"
        ) from error
    name = str(source.path)
    if not exists and (name.startswith((".", "/", "~")) or path.suffix in _FILES):
        raise ConfigError(f"{key_of(key, 'path')}: {one_line(path)} does not exist{sought_in(path)}")
    _refuse_script(path, key)
    # The library raises errors of a dozen kinds (network, format, unknown split or subset); all mean the same here.
    try:
        dataset = _loaded(datasets, source, path)
    except Exception as error:
        raise ConfigError(
            f"{key}: cannot load dataset {one_line(repr(name))} (subset {one_line(source.subset)}, "
            f"split {one_line(repr(source.split))}): {_reason(error)}"
        ) from error
    if not isinstance(dataset, datasets.Dataset):
        raise ConfigError(
            f"{key_of(key, 'split')}: {one_line(repr(source.split))} of {one_line(name)} is not one split"
        )
    return dataset


def _loaded(datasets: Any, source: SourceConfig, path: Path) -> Any:
    if path.is_file():
        builder = BUILDERS.get(path.suffix, "text")
        return datasets.load_dataset(builder, data_files={source.split: str(path)}, split=source.split)
    if (path / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(path / source.split))
    if (path / "state.json").is_file():
        return datasets.load_from_disk(str(path))
    # Older versions of the library would ask whether to run a dataset's code, or be told so by the environment.
    asks = "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters
    never: dict[str, bool] = {"trust_remote_code": False} if asks else {}
    return datasets.load_dataset(
        str(path) if path.is_dir() else str(source.path), source.subset, split=source.split, **never
    )


def _refuse_script(path: Path, key: str) -> None:
    """Old datasets are a program that makes them, in a file of the folder's name."""
    script = path if path.suffix == ".py" else path / f"{path.name}.py"
    if script.is_file():
        raise ConfigError(
            f"{key_of(key, 'path')}: {one_line(script)} is a program that makes a dataset, and is not run; "
            "give what it makes as a file: JSONL or Parquet"
        )


def _reason(error: Exception) -> str:
    return one_line(" ".join(str(error).split()))[:300] or type(error).__name__
