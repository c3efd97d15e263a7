"""Short names of runs: what all of them have in common is left out, where it makes names long."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line

LONG = 20
"""Characters; names that are longer lose the words that all of them begin or end with."""

_WORD = re.compile(r"[^-_.,+=:/ ]*[-_.,+=:/ ]*")


def run_names(runs: Sequence[Path]) -> list[str]:
    """Short names of the runs: the parts of their paths that tell them apart, in one word where that is possible.

    Parts that all paths begin or end with are left out; where the rest is still longer than `LONG`, so are such words.
    A run by itself has the name of its folder.

    Raises:
        UserError: a run is given twice.
    """
    folders = [(run.parent if os.path.isfile(run) else run).absolute() for run in runs]
    if len(set(folders)) < len(folders):
        twice = next(run for run, folder in zip(runs, folders, strict=True) if folders.count(folder) > 1)
        raise UserError(f"{one_line(twice)}: this run is named twice")
    if len(folders) < 2:
        return [folder.name for folder in folders]
    names = ["/".join(parts) for parts in _without_common([folder.parts[1:] for folder in folders])]
    if max(map(len, names)) > LONG:
        names = _by_words(names)
    return names


def _by_words(names: Sequence[str]) -> list[str]:
    """The names without the words that all begin or end with; a bare number keeps the word before it."""
    split = [[word for word in _WORD.findall(name) if word] for name in names]
    ends = [words[-1] for words in split]
    for words, end in zip(split, ends, strict=True):  # the end of a name is no other word for having no dash behind it
        words[-1] = f"{end}/"
    short = _without_common(split)
    if not all(any(character.isalpha() for character in "".join(words)) for words in short):
        before = _common(split)
        if before:
            short = [[split[0][before - 1], *words] for words in short]
    found = ["".join(words).rstrip("-_.,+=:/ ") for words in short]
    return found if all(found) and len(set(found)) == len(found) else list(names)


def _without_common(names: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Each without the parts that all begin, and those that all end with; at least one part is left."""
    before = _common(names)
    rest = [name[before:] for name in names]
    after = _common([name[::-1] for name in rest])
    return [name[: len(name) - after] for name in rest]


def _common(names: Sequence[Sequence[str]]) -> int:
    """How many parts all begin with, short of the whole of any."""
    most = min(map(len, names)) - 1
    return next((i for i in range(most) if len({name[i] for name in names}) > 1), max(0, most))
