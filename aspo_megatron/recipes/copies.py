"""Recipes (examples/ of the repository) and batch scripts (slurm/), copied so that they work from where the copy is."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aspo_megatron.errors import UserError
from aspo_megatron.files import plain_errors
from aspo_megatron.folders import packaged
from aspo_megatron.foreign_text import one_line

_EXAMPLES = "examples"
_SCRIPTS = "slurm"
_README = "README.md"
_TEXTS = (".md", ".yaml", ".py", ".sh", ".sbatch")
"""Files that may name others of their folder. No program reads a JSON file's text for a path."""

_IMAGE_OUTSIDE = re.compile(r"^!\[[^\]]*\]\(\.\.[^)]*\)\n\n?", flags=re.MULTILINE)
_LINK_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\.[^)]*\)")


@dataclass(frozen=True)
class Recipe:
    """A folder that comes with the package.

    Attributes:
        name: how the command calls it.
        place: its folder in the repository, as its own files write it.
        folder: where it is.
    """

    name: str
    place: str
    folder: Path

    @property
    def summary(self) -> str:
        """One line on what it is: the heading of its README."""
        return self._readme().partition("\n")[0].lstrip("# ")

    def next_commands(self, folder: Path) -> list[str]:
        """What to run from a copy in `folder`: the first commands of its README."""
        block = re.search(r"^    .*\n(?:    .*\n)*", named_from(self._readme(), self.place, folder), flags=re.MULTILINE)
        return [] if block is None else [line.strip() for line in block[0].splitlines()]

    def files(self) -> Iterator[Path]:
        """Its files, relative to its folder, in order of their names. What Python leaves beside its files is none."""
        for top, _, names in sorted(os.walk(self.folder, followlinks=True)):
            for name in sorted(names):
                if not name.endswith(".pyc"):
                    yield (Path(top) / name).relative_to(self.folder)

    def _readme(self) -> str:
        return (self.folder / _README).read_text(encoding="utf-8")


def recipes() -> list[Recipe]:
    """All there are, by name; the batch scripts are the last."""
    examples, scripts = packaged(f"recipes/{_EXAMPLES}"), packaged(f"recipes/{_SCRIPTS}")
    folders = sorted(folder for folder in examples.iterdir() if (folder / _README).is_file())
    found = [Recipe(folder.name, f"{_EXAMPLES}/{folder.name}", folder) for folder in folders]
    return [*found, Recipe(_SCRIPTS, _SCRIPTS, scripts)]


def find(name: str) -> Recipe:
    """The recipe of this name, which may be written as in the repository, `examples/NAME`.

    Raises:
        UserError: there is none; names those that there are.
    """
    there = {recipe.name: recipe for recipe in recipes()}
    recipe = there.get(name.rstrip("/").removeprefix(f"{_EXAMPLES}/"))
    if recipe is None:
        raise UserError(f"{one_line(name)}: no such recipe; there are {', '.join(there)}")
    return recipe


def copy(recipe: Recipe, folder: Path) -> None:
    """Copy a recipe; the paths in its files are then those of the copy, seen from the working directory.

    Links of its README that lead out of it become text, and images are left out: what they lead to is not there.

    Args:
        recipe: what to copy.
        folder: the copy, which must not be there yet; folders above it are made.

    Raises:
        UserError: the folder is there already, or cannot be written. Nothing is left of it then.
    """
    if one_line(folder) != str(folder):  # its name becomes part of lines of scripts
        raise UserError(f"{one_line(folder)}: no name for a folder that commands are to name; use printable characters")
    if os.path.lexists(folder):
        again = f"aspo recipes {recipe.name} FOLDER"
        raise UserError(f"{one_line(folder)}: is there already; remove it, or name a folder of its own: {again}")
    with plain_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        try:
            for file in recipe.files():
                (folder / file).parent.mkdir(exist_ok=True)
                _copy_file(recipe, file, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def named_from(text: str, place: str, folder: Path, *, quoted_as_yaml: bool = False) -> str:
    """A text whose paths below `place` are those below `folder`, quoted where a shell, or YAML, wants it."""

    def moved(found: re.Match[str]) -> str:
        path = f"{folder}{found[1]}"
        quoted = shlex.quote(path)
        return json.dumps(path, ensure_ascii=False) if quoted_as_yaml and quoted != path else quoted

    return re.sub(rf"(?<![\w./-]){re.escape(place)}((?:/\w[\w.-]*)*/[\w.-]*\w)", moved, text)


def _copy_file(recipe: Recipe, file: Path, folder: Path) -> None:
    source, target = recipe.folder / file, folder / file
    if file.suffix not in _TEXTS:
        shutil.copyfile(source, target)
        return
    text = source.read_text(encoding="utf-8")
    if file.suffix == ".md":
        text = _LINK_OUTSIDE.sub(r"\1", _IMAGE_OUTSIDE.sub("", text))
    text = named_from(text, recipe.place, folder, quoted_as_yaml=file.suffix == ".yaml")
    target.write_text(text, encoding="utf-8")
    if os.access(source, os.X_OK):
        target.chmod(target.stat().st_mode | 0o111)
