"""The trace of a profiled step, as the viewers take it."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import tempfile
from pathlib import Path

from torch.profiler import profile as torch_profile

from aspo_megatron.files import whole_file


def write_trace(profiler: torch_profile, path: Path) -> None:
    """Write the trace compressed, by way of the machine's folder for temporary files.

    Raises:
        UserError: it cannot be written.
    """
    with whole_file(path) as partial, tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "trace.json"
        profiler.export_chrome_trace(str(plain))
        if not _is_complete(plain):
            raise OSError(errno.ENOSPC, f"the trace does not fit into {tempfile.gettempdir()}")
        with plain.open("rb") as trace, gzip.open(partial, "wb") as compressed:
            shutil.copyfileobj(trace, compressed)


def _is_complete(trace: Path) -> bool:
    """Whether it ends as JSON does: the profiler's library says nothing when it cannot write."""
    if not trace.is_file():
        return False
    with trace.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 100))
        return file.read().rstrip().endswith(b"}")
