"""Which run folders are compared: those that are named, or that lie in a folder that is named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from aspo_megatron.errors import UserError
from aspo_megatron.folders import METRICS_FILE
from aspo_megatron.foreign_text import one_line, placed


def run_folders(places: Sequence[Path]) -> list[Path]:
    """The run folders, each once, in the order in which they are named; those in a folder by name.

    A run folder is one with a metrics.jsonl in it. A folder without one stands for the run folders in it.

    Raises:
        UserError: nothing is named, or a place is no run folder and holds none.
    """
    if not places:
        raise UserError("no run given to compare; name run folders, or a folder that holds them")
    found: dict[Path, Path] = {}
    for place in places:
        for folder in [place] if _is_run(place) else _runs_in(place):
            found.setdefault(Path(os.path.realpath(folder)), folder)
    return list(found.values())


def _is_run(folder: Path) -> bool:
    return os.path.lexists(folder / METRICS_FILE)


def _runs_in(place: Path) -> list[Path]:
    """The run folders one level below."""
    try:
        runs = sorted(folder for folder in place.iterdir() if folder.is_dir() and _is_run(folder))
    except FileNotFoundError as error:
        raise UserError(f"{placed(place)}: no such folder") from error
    except NotADirectoryError as error:
        raise UserError(f"{one_line(place)}: not a folder; name run folders, or one that holds them") from error
    except OSError as error:
        raise UserError(f"{one_line(place)}: cannot be read: {error.strerror or error}") from error
    if not runs:
        raise UserError(
            f"{one_line(place)}: neither a run folder nor one that holds some: no {METRICS_FILE} in it, nor in the "
            "folders below"
        )
    return runs
