"""The plan in a recipe's README: `python -m aspo_megatron.plan.readme examples/RECIPE...` writes it anew."""

from __future__ import annotations

import sys
from pathlib import Path

from aspo_megatron.config.io import load_config
from aspo_megatron.errors import UserError
from aspo_megatron.models.family import read_family
from aspo_megatron.plan.report import ModelSource, make_plan
from aspo_megatron.plan.text import plan_text

_BEGIN, _END = "<!-- plan -->\n", "<!-- end -->\n"


def with_plan(recipe: Path) -> str:
    """The README of a recipe's folder, with the plan of its run.yaml between the two marks.

    Raises:
        UserError: the recipe cannot be planned, or the README has no marks.
    """
    readme = (recipe / "README.md").read_text(encoding="utf-8")
    path = recipe / "run.yaml"
    run = load_config(path)
    shown = Path("examples") / recipe.name / "model" / "config.json"  # as the command shows it at the root
    source = ModelSource(shown, run.model.path)
    plan = plan_text(make_plan(run, read_family(recipe / "model"), source=source))
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise UserError(f"{recipe}/README.md: has no lines {_BEGIN.strip()} and {_END.strip()}")
    return f"{before}{begin}```text\n{plan}```\n{end}{after}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        (Path(name) / "README.md").write_text(with_plan(Path(name)), encoding="utf-8")
