"""The rows of Parquet files, a few at a time. Nothing in such a file is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from aspo_megatron.data.bad_problems import Row
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line

_ROWS_AT_ONCE = 64
"""Rows with tests may have tens of MiB."""


def parquet_rows(file: BinaryIO, name: str, key: str) -> Iterator[Row]:
    """Each row, with its number from 0.

    Args:
        file: an open file.
        name: how errors call it.
        key: the configuration key of the source, or the command's option.

    Raises:
        ConfigError: it cannot be read, or pyarrow is missing or one that may run code of a file.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            f"{key}: {name} is a Parquet file, which needs the package `pyarrow` ({one_line(error)}); run: "
            "pip install pyarrow, or write it as JSONL"
        ) from error
    if int(pyarrow.__version__.partition(".")[0]) < 15:  # CVE-2023-47248: older ones unpickle what a schema asks for
        raise ConfigError(f"{key}: pyarrow {one_line(pyarrow.__version__)} may run code of a file; install 15 or newer")
    number = 0
    # Whatever a damaged file makes the library raise (a dozen classes).
    try:
        content = pyarrow.parquet.ParquetFile(file)
        batches = content.iter_batches(batch_size=_ROWS_AT_ONCE, use_threads=False)
    except Exception as error:
        raise ConfigError(f"{name}: not a whole Parquet file: {_reason(error)}") from error
    while True:
        try:
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        except Exception as error:
            raise ConfigError(f"{name} row {number}: cannot be read: {_reason(error)}") from error
        if batch is None:
            return
        for row in rows:
            yield f"{name} row {number}", row
            number += 1


def _reason(error: Exception) -> str:
    return one_line(" ".join(str(error).split()))[:300] or type(error).__name__
