"""The folder `checkpoints` of a run: which states are there, which is the newest, and which go."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aspo_megatron.checkpoint.states.writer import discard
from aspo_megatron.checkpoint.torch_dist.parts import PARTIAL, complete_left, remove
from aspo_megatron.errors import UserError
from aspo_megatron.files import plain_errors, to_disk, write_whole
from aspo_megatron.folders import CHECKPOINTS, EXPORTS, LATEST, START, step_name
from aspo_megatron.foreign_text import one_line

_NAME = re.compile(r"step-([0-9]{6}|[1-9][0-9]{6,15})")
_REMOVED = ".removed"
_REFUSED = ".refused"
_OWN = re.compile(rf"(?:{_NAME.pattern}|{START}|{LATEST})(?:{re.escape(PARTIAL)}|{re.escape(_REMOVED)})")
"""What an ended run leaves half-written or half-removed."""


def step_folder(run: Path, step: int) -> Path:
    """Where the state after a step is."""
    return run / CHECKPOINTS / step_name(step)


def saved_steps(run: Path) -> list[int]:
    """Steps of which there is a state, the latest first.

    Raises:
        OSError: they cannot be listed, as on a disk that is not there.
    """
    if not os.path.lexists(run / CHECKPOINTS):
        return []
    names = os.listdir(run / CHECKPOINTS)
    steps = (int(name.removeprefix("step-")) for name in names if _NAME.fullmatch(name))
    return sorted(steps, reverse=True)


def publish(run: Path, step: int, keep: int) -> str | None:
    """Point at the state after `step`, which is whole, then let those beyond the newest `keep` go.

    Returns:
        What of it could not be done. Nothing is removed that `latest` may name.
    """
    folder = step_folder(run, step)
    latest = folder.with_name(LATEST)
    try:
        with plain_errors(latest):
            to_disk(folder.parent)
            if os.path.lexists(latest) and (latest.is_symlink() or not (latest.is_file() or latest.is_dir())):
                latest.unlink()  # else what it leads to would be written, which may be a state, or a pipe waited for
        write_whole(latest, f"{folder.name}\n", durable=True)
    except UserError as error:
        return str(error)
    try:
        for number in saved_steps(run)[keep:]:
            old = step_folder(run, number)
            if number < step:  # never half of it under its name
                old.rename(old.with_name(old.name + _REMOVED))
        errors = [attempt(partial(remove, gone)) for gone in _left(run, _REMOVED)]
    except OSError as error:
        errors = [f"{error.filename}: {error.strerror}"]
    return next((f"an old state could not be removed ({error})" for error in errors if error), None)


def set_aside(folder: Path) -> None:
    """Give a state that is refused another name, since a new one is going to have its own.

    Raises:
        OSError: that cannot be done.
    """
    aside = folder.with_name(folder.name + _REFUSED)
    with contextlib.suppress(OSError):
        remove(aside)
    folder.rename(aside)


def listed(run: Path) -> tuple[list[int], str | None]:
    """The steps of which there is a state, see `saved_steps`; and why it is not to be trusted if it is none.

    A run whose states are out of sight (a disk that is not mounted, a folder moved away) is not to begin again.
    """
    latest = run / CHECKPOINTS / LATEST
    try:
        steps = saved_steps(run)
    except OSError as error:
        return [], f"{latest.parent}: cannot be read ({error.strerror}), and may hold states; make it readable"
    if not steps and os.path.lexists(latest):
        return [], f"{latest} says that there are states of this run, and none is there; put them back"
    return steps, None


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
    for folder in _left(run, PARTIAL):
        try:
            if folder.is_symlink() or not folder.is_dir() or not complete_left(folder):
                discard(folder)
        except OSError as error:
            why = one_line(error.strerror or error)
            warn(f"warning: {one_line(folder)} is left as it is ({why}); the next start looks at it again")
    for path in (*_left(run, _REMOVED), *run.glob(f"{EXPORTS}/*{PARTIAL}"), *run.glob(f"*{PARTIAL}")):
        with contextlib.suppress(OSError):
            remove(path)


def _left(run: Path, suffix: str) -> list[Path]:
    """What a run has left among its states under a name of its own; other files there are somebody's."""
    return [path for path in sorted((run / CHECKPOINTS).glob(f"*{suffix}")) if _OWN.fullmatch(path.name)]
