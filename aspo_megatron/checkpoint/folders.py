"""The folder `checkpoints` of a run: which states are there, which is the newest, and which go."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from aspo_megatron.checkpoint.parts import PARTIAL, complete_left
from aspo_megatron.checkpoint.writer import discard
from aspo_megatron.errors import UserError
from aspo_megatron.writing import plain_errors, to_disk, write_whole

_LATEST = "latest"
_REMOVED = ".removed"
_REFUSED = ".refused"


def step_folder(run: Path, step: int) -> Path:
    """Where the state after a step is."""
    return run / "checkpoints" / f"step-{step:06d}"


def saved_steps(run: Path) -> list[int]:
    """Steps of which there is a state, the latest first."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted((int(folder.name[5:]) for folder in folders if folder.name[5:].isdigit()), reverse=True)


def publish(run: Path, step: int, keep: int) -> str | None:
    """Point at the state after `step`, which is whole, then let those beyond the newest `keep` go.

    Returns:
        What of it could not be done. Nothing is removed that `latest` may name.
    """
    folder = step_folder(run, step)
    latest = folder.with_name(_LATEST)
    try:
        with plain_errors(latest):
            to_disk(folder.parent)
        write_whole(latest, f"{folder.name}\n", durable=True)
    except UserError as error:
        return str(error)
    try:
        for number in saved_steps(run)[keep:]:
            old = step_folder(run, number)
            if number < step:  # never half of it under its name
                old.rename(old.with_name(old.name + _REMOVED))
        for gone in folder.parent.glob(f"step-*{_REMOVED}"):
            shutil.rmtree(gone)
    except OSError as error:
        return f"an old state could not be removed ({error.filename}: {error.strerror})"
    return None


def set_aside(folder: Path) -> None:
    """Give a state that is refused another name, since a new one is going to have its own.

    Raises:
        OSError: that cannot be done.
    """
    aside = folder.with_name(folder.name + _REFUSED)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)


def attempt(action: Callable[[], None]) -> str | None:
    """Do what may fail; the reason if it did."""
    try:
        action()
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def tidy(run: Path, warn: Callable[[str], None]) -> None:
    """Complete states that an ended run had wholly written, and remove what else it has left half-written.

    For the leader, before anything is saved. Nothing that cannot be done ends the run.
    """
    for folder in sorted((run / "checkpoints").glob(f"*{PARTIAL}")):
        try:
            if not folder.is_dir():
                folder.unlink()
            elif not complete_left(folder):
                discard(folder)
        except OSError as error:
            warn(f"warning: {folder} is left as it is ({error.strerror or error}); the next start looks at it again")
    for pattern in (f"checkpoints/*{_REMOVED}", f"exports/*{PARTIAL}", f"*{PARTIAL}"):
        for path in run.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()
