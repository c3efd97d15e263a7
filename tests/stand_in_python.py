"""A Python whose `sglang` is the stand-in, for `rollout.servers.python`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

MODULES = Path(__file__).parent / "stand_in"


def stand_in_python(folder: Path) -> Path:
    """A program in `folder` to be run as that Python."""
    path = folder / "python"
    start = f'PYTHONPATH={shlex.quote(str(MODULES))}:"$PYTHONPATH" exec {shlex.quote(sys.executable)} "$@"'
    path.write_text(f"#!/bin/sh\n{start}\n")
    path.chmod(0o755)
    return path
