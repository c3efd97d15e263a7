"""docs/messages.md: every line with which `aspo` refuses or warns; `python tools/messages_page.py` writes it anew.

The lines are read out of the source: what is made into a `UserError`, into the reason why a problem cannot be used, or
into a text that begins with `warning: `. What is put in when it happens is `...`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "aspo_megatron"
PAGE = ROOT / "docs" / "messages.md"

_CLASSES = {"Reason", "error"}
"""Called with a line, too: why a problem is left out, and an error's class that is given."""

_FILES = "files of any kind"
_PAGES = {
    "api": "python",
    "check": "parallelism",
    "checkpoint": "checkpoints",
    "comparison": "comparing",
    "config": "configuration",
    "data": "data",
    "evaluation": "evaluation",
    "inputs": "data",
    "launch": "troubleshooting",
    "losses": "loss",
    "models": "model_folders",
    "parallel": "parallelism",
    "plan": "planning",
    "plots": "plots",
    "quantize": "quantization",
    "rewards": "rewards",
    "rollout": "sglang",
    "simulation": "simulation",
    "slurm": "slurm",
    "watch": "plots",
}
"""Where more is said of the lines of a room; of the others in troubleshooting.md."""

_HEAD = """\
# Messages

<!-- Generated: python tools/messages_page.py -->

Every line with which `aspo` refuses what it is given (`error: ...`, exit code 2) or warns. `...` stands for what is put
in: a key, a file, a number. Each says itself what to do; the page named below a heading says more, and
[troubleshooting.md](troubleshooting.md) goes by symptom. Search this page for some words of your line.
"""


def page() -> str:
    """The whole page."""
    sources = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    called = error_classes(sources.values()) | _CLASSES
    rooms: dict[str, set[str]] = {}
    for path, tree in sources.items():
        if "recipes" in path.parts:
            continue
        parts = path.relative_to(PACKAGE).parts
        room = parts[0] if len(parts) > 1 else _FILES
        rooms.setdefault(room, set()).update(lines_of(tree, called))
    text = _HEAD
    for room, lines in sorted(rooms.items(), key=lambda pair: (pair[0] == _FILES, pair[0])):
        if lines:
            more = _PAGES.get(room, "troubleshooting")
            text += f"\n## {room.capitalize()}\n\nMore in [{more}.md]({more}.md).\n\n"
            text += "".join(f"- {_code(line)}\n" for line in sorted(lines, key=lambda line: (line.lower(), line)))
    return text


def error_classes(trees: Collection[ast.Module]) -> set[str]:
    """The names of `UserError` and of all classes below it."""
    found, before = {"UserError"}, 0
    while len(found) > before:
        before = len(found)
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") in found for base in node.bases):
                    found.add(node.name)
    return found


def lines_of(tree: ast.AST, called: set[str]) -> Iterator[str]:
    """The lines that a module makes."""
    for function, node in _in_functions(tree):
        texts: list[ast.expr] = []
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in called:
            texts = list(node.args[-1:] if getattr(node.func, "id", "") == "Reason" else node.args)
        elif isinstance(node, ast.JoinedStr | ast.Constant) and _plain(node, function).startswith("warning: "):
            texts = [node]
        for text in texts:
            line = re.sub(r"(\.\.\.)+", "...", " ".join(_plain(text, function).split()))
            own = line.removeprefix("warning: ").replace("...", "")
            if re.search(r"\w{3}.*\w{3}", own):  # else it passes on what somebody else says
                yield line


def _in_functions(tree: ast.AST, function: ast.AST | None = None) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Each node, with the function that it is in."""
    function = function or tree
    for child in ast.iter_child_nodes(tree):
        inner = child if isinstance(child, ast.FunctionDef) else function
        if not (isinstance(tree, ast.JoinedStr) and isinstance(child, ast.Constant)):  # else it is part of a text
            yield inner, child
        yield from _in_functions(child, inner)


def _plain(node: ast.AST, function: ast.AST, depth: int = 0) -> str:
    """A text with `...` for what is not known before it happens."""
    text = "..."
    match node:
        case ast.Constant(value=str(own)):
            text = own
        case ast.JoinedStr(values=parts):
            text = "".join(_plain(part, function, depth) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            text = _plain(left, function, depth) + _plain(right, function, depth)
        case ast.IfExp(body=one, orelse=other):
            text = _plain(one, function, depth) or _plain(other, function, depth)
        case ast.FormattedValue(value=ast.Name() | ast.IfExp() as inner):
            text = _plain(inner, function, depth)
        case ast.Call(func=ast.Name(id="one_line"), args=[inner]):
            text = _plain(inner, function, depth)
        case ast.Name(id=name) if depth < 3:
            values = [each.value for each in ast.walk(function) if isinstance(each, ast.Assign) and _names(each, name)]
            if len(values) == 1 and isinstance(values[0], ast.Constant | ast.JoinedStr | ast.BinOp | ast.IfExp):
                text = _plain(values[0], function, depth + 1)
    return text


def _names(assignment: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in assignment.targets)


def _code(line: str) -> str:
    """The line as code in Markdown."""
    return f"`` {line} ``" if "`" in line else f"`{line}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
