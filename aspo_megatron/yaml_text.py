"""The one place through which YAML files are read: what cannot be is one line that names the file and the place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import read_bytes

_DESCRIPTORS = Path("/dev/fd")
_MOST_BYTES = 2**20
MOST_LETTERS = 2**24
"""Of all values together, each counted as often as it is referred to."""
_MOST_VALUES = 10_000
"""As OmegaConf has it, which counts them when they are read; a megabyte may hold half a million."""
_WHOLE = "tag:yaml.org,2002:int"
_TWICE = "found duplicate key "
"""As OmegaConf begins to say it."""
_LONGEST_NUMBER = 400
"""Digits: those of the largest floating-point number. Python shows none of more than 4,300."""


def read_yaml(path: Path, error: type[UserError] = UserError, *, keys_only: bool = False) -> str:
    """The text of a YAML file, which can be parsed, and whose values fit into memory.

    A short text may stand for more values than any memory has: by aliases of what consists of aliases.

    Args:
        path: the file, or a pipe that a shell has opened.
        error: the class of what is raised.
        keys_only: it must hold `key: value` lines, or nothing.

    Raises:
        UserError: of the class `error`: it cannot be read, is no YAML, or is nested or repeated too much.
    """
    data = _of_the_shell(path, error) if path.parent == _DESCRIPTORS else read_bytes(path, error, _MOST_BYTES)
    with yaml_errors(path, error):
        text = data.decode("utf-8-sig")
        root = yaml.compose(text, Loader=_Loader)
        letters = _letters(root, {})
    if letters > MOST_LETTERS:
        raise error(f"{one_line(path)}: its aliases (*name) expand to too much, or refer to themselves")
    if keys_only and root is not None and not isinstance(root, yaml.MappingNode):
        what = ", not a list" if isinstance(root, yaml.SequenceNode) else ""
        raise error(f"{one_line(path)}: must hold `key: value` lines{what}")
    return text


class _Loader(yaml.SafeLoader):
    """Stops where there are too many values, or a number that is longer than any."""

    _values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        node: yaml.Node | None = super().compose_node(parent, index)
        self._values += 1
        problem = None
        if self._values > _MOST_VALUES:
            problem = f"has more than {_MOST_VALUES:,} values"
        elif isinstance(node, yaml.ScalarNode) and node.tag == _WHOLE and len(node.value) > _LONGEST_NUMBER:
            problem = f"a number of {len(node.value):,} digits"
        if problem and node:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node


@contextmanager
def yaml_errors(path: Path, error: type[UserError] = UserError) -> Iterator[None]:
    """Turns what YAML's loaders raise into one line, of the class `error`, that names the file and the place."""
    name = one_line(path)
    try:
        yield
    except RecursionError as reason:
        raise error(f"{name}: YAML that is nested too deeply") from reason
    except yaml.MarkedYAMLError as reason:
        mark = reason.problem_mark
        where = f"{name}, line {mark.line + 1}, column {mark.column + 1}" if mark else name
        raise error(f"{where}: {_problem(reason)}") from reason
    except (yaml.YAMLError, ValueError) as reason:  # ValueError: the 99th of a month, for one
        raise error(f"{name}: not YAML: {one_line(str(reason).splitlines()[0])}") from reason


def _problem(reason: yaml.MarkedYAMLError) -> str:
    """What is wrong, in one line."""
    said = str(reason.problem)
    if said.startswith(_TWICE):
        return f"the key {one_line(said.removeprefix(_TWICE))} is given twice here; keep one of them"
    if said.startswith(r"found character '\t'"):
        return "not YAML: a tab; lines are indented by spaces"
    return f"not YAML: {one_line(said)}"


def _of_the_shell(path: Path, error: type[UserError]) -> bytes:
    """What a pipe holds that a shell has opened, as in `aspo plan <(...)`."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror}") from reason


def _letters(node: yaml.Node | None, known: dict[int, float]) -> float:
    """How much text a value is with all that it refers to; infinite if it refers to itself."""
    if node is None:
        return 0
    if id(node) not in known:
        known[id(node)] = math.inf
        if isinstance(node, yaml.MappingNode):
            known[id(node)] = 1 + sum(_letters(part, known) for pair in node.value for part in pair)
        elif isinstance(node, yaml.SequenceNode):
            known[id(node)] = 1 + sum(_letters(part, known) for part in node.value)
        else:
            known[id(node)] = 1 + len(node.value)
    return known[id(node)]
