"""`aspo recipes`: what comes with the package to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import show


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One of them. [default: list all]")] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Where the copy is made. [default: NAME]")
    ] = None,
) -> None:
    """List the recipes that come with aspo, or copy one, to be run and changed.

    Run the copy from the folder in which you made it: its paths are relative to that folder. `slurm` contains
    batch scripts.

    \b
      aspo recipes
      aspo recipes tiny && aspo train tiny/run.yaml
      aspo recipes slurm scripts
    """
    from aspo_megatron.recipes import copies

    if name is None:
        there = copies.recipes()
        width = max(len(recipe.name) for recipe in there)
        for recipe in there:
            show(f"{one_line(recipe.name.ljust(width))}  {one_line(recipe.summary)}")
        show("copy one: aspo recipes NAME [FOLDER]")
        return
    recipe = copies.find(name)
    target = folder or Path(recipe.name)
    copies.copy(recipe, target)
    readme = shlex.quote(str(target / "README.md"))
    show(f"{one_line(target)}: copied; {one_line(readme)} explains it. Next:")
    for command in recipe.next_commands(target):
        show(f"  {one_line(command)}")
