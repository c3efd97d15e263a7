"""Small rooms: how large a module, a function and a folder of the package may be. What imports what: `make lint`."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import aspo_megatron

PACKAGE = Path(aspo_megatron.__file__).parent
TESTS = Path(__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
ONE_FILE_EACH = {PACKAGE / "losses", PACKAGE / "models" / "families"}


def test_no_module_has_more_than_400_lines() -> None:
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_no_function_has_more_than_60_lines() -> None:
    found = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                found[f"{path.relative_to(PACKAGE)}: {node.name}"] = node.end_lineno - node.lineno + 1
    assert {name: count for name, count in found.items() if count > 60} == {}


def test_no_folder_has_more_than_18_modules_and_the_top_at_most_ten() -> None:
    folders = {path.parent for path in MODULES} - ONE_FILE_EACH
    counts = {folder: len(list(folder.glob("*.py"))) for folder in folders}
    assert counts.pop(PACKAGE) <= 10
    assert {str(folder): count for folder, count in counts.items() if count > 18} == {}


def test_no_two_modules_of_tests_have_one_name() -> None:
    """pytest imports them by name, from the folder above the last with an __init__.py: the second is an error."""
    names = Counter(_module_name(path) for path in TESTS.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def _module_name(path: Path) -> str:
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").exists():
        parts, folder = [folder.name, *parts], folder.parent
    return ".".join(parts)


def test_every_folder_says_what_it_is_for() -> None:
    for path in MODULES:
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
