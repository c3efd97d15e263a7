"""The table of docs/models.md, from the plans in the recipes' READMEs; `python tools/models_table.py` writes it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "models.md"
_BEGIN, _END = "<!-- models -->\n", "<!-- end -->\n"
_HEAD = (
    "| model | parameters, billions | a step | trainer | servers | GB of a GPU at the peak | "
    "GB of host memory of a node, locked | seconds of a step, H100 | H200 |\n"
    "| --- | --: | --- | --- | --- | --: | --: | --: | --: |\n"
)


class NoPlanError(Exception):
    """A recipe's plan lacks a line; says which."""


def with_table(page: str) -> str:
    """The page with the table between its two marks."""
    before, _, rest = page.partition(_BEGIN)
    after = rest.partition(_END)[2]
    return f"{before}{_BEGIN}{_HEAD}{''.join(row(recipe) for recipe in planned())}{_END}{after}"


def planned() -> list[Path]:
    """Folders of the recipes whose README has a plan, from the smallest model to the largest."""
    found = [path.parent for path in ROOT.glob("examples/*/README.md") if "<!-- plan -->" in path.read_text("utf-8")]
    return sorted(found, key=lambda recipe: float(_parameters(_plan(recipe))))


def row(recipe: Path) -> str:
    """The table's line of a recipe."""
    plan = _plan(recipe)
    run = yaml.safe_load((recipe / "run.yaml").read_text(encoding="utf-8"))
    rollout = run["rollout"]
    title = _found(r"^# (.*?)(?: on .*)?$", (recipe / "README.md").read_text(encoding="utf-8"), recipe)[0]
    ranks, parallel, recompute = _found(r"^layout +(\d+) ranks?, parallel: (\{.*?\}), recompute: (\w+)", plan, recipe)
    worst = max(_found(r"^at the peak +(.+)$", plan, recipe)[0].split(), key=float)
    (locked,) = _found(r"^all ranks of a node: (\S+) GB", plan, recipe)
    (servers,) = _found(r"^(\d+ SGLang servers, .*?) each", plan, recipe)
    h100, h200 = _found(r"^step +([\d.,]+) +([\d.,]+)$", plan, recipe)
    step = (
        f"{rollout['prompts_per_step']} x {rollout['responses_per_prompt']} responses of up to "
        f"{rollout['sampling']['max_response_tokens']:,} tokens"
    )
    cells = [
        f"[{title}](../examples/{recipe.name})",
        _parameters(plan),
        step,
        f"{ranks} GPUs, `{parallel}`, recompute {recompute}",
        f"{servers.replace(' SGLang servers', '')} each",
        worst,
        locked,
        h100,
        h200,
    ]
    return f"| {' | '.join(cells)} |\n"


def _plan(recipe: Path) -> str:
    return (recipe / "README.md").read_text(encoding="utf-8").partition("<!-- plan -->")[2]


def _parameters(plan: str) -> str:
    return _found(r"^model .*?, ([\d.]+) billion parameters", plan, Path("README.md"))[0]


def _found(pattern: str, text: str, recipe: Path) -> tuple[str, ...]:
    match = re.search(pattern, text, flags=re.MULTILINE)
    if match is None:
        raise NoPlanError(f"{recipe}: its plan has no line like {pattern}")
    return match.groups()


if __name__ == "__main__":
    try:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    except NoPlanError as error:
        sys.exit(f"models table: {error}")
