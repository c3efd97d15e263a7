"""The words of a setting are listed once."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from typing import get_args

import aspo_megatron
from aspo_megatron.config.words import SandboxChoice
from aspo_megatron.rewards.programs.jail.init import Mode

ROOT = Path(aspo_megatron.__file__).parent


def test_no_words_are_listed_twice() -> None:
    places: dict[frozenset[str], list[str]] = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
                words = frozenset(ast.unparse(node.slice).strip("()").split(", "))
                places[words].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert [found for found in places.values() if len(found) > 1] == []


def test_the_jail_has_the_words_of_the_setting() -> None:
    assert get_args(SandboxChoice) == ("auto", *get_args(Mode))
