"""Runs one untrusted program in a process that has been shut in for it.

What comes out of here is what the program claims: its output, or the value that its function returned. It may lie,
crash or write what it likes; whether that is right is decided outside.
"""

from __future__ import annotations

import builtins
import importlib
import os
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any, NoReturn

from .arguments import dump_result, load
from .nodes import CLASSES

RESULT = 3
"""The descriptor that takes a function's result."""

# What solutions on practice sites find imported; `builtins` last, for `pow`, `open` and others.
_STAR_IMPORTS = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "typing", "builtins"),
)
_PLAIN_IMPORTS = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "typing", "time"),
)
_RECURSION_LIMIT = 50_000
_INTEGER_DIGITS = 50_000


def prelude() -> dict[str, Any]:
    """The names that a program finds defined. Called before any program runs, so that imports cost it no time."""
    names: dict[str, Any] = dict(CLASSES)
    for module_name in _STAR_IMPORTS:
        module = vars(importlib.import_module(module_name))
        public = module.get("__all__") or [name for name in module if not name.startswith("_")]
        names |= {name: module[name] for name in public if name in module}
    names |= {name: importlib.import_module(name) for name in _PLAIN_IMPORTS}
    return names


def run(source: str, function: str | None, prepared: dict[str, Any], packages: list[str]) -> None:
    """Run a program on descriptors 0 and 1, or call its function on the arguments that descriptor 0 holds.

    Args:
        source: the program's text.
        function: name of a method of its class `Solution`, or of a function; before it, with spaces, functions of
            Python's that its result goes through, as in `sorted set f` and `round:2 f`. None for a program.
        prepared: see `prelude`.
        packages: folders of packages that it may import.

    Raises:
        BaseException: whatever the program raises, except SystemExit.
    """
    sys.path += packages
    sys.argv = ["solution.py"]
    sys.setrecursionlimit(_RECURSION_LIMIT)
    sys.set_int_max_str_digits(_INTEGER_DIGITS)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    # The interpreter's own references would be used at its end.
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    module = ModuleType("__main__" if function is None else "solution")
    sys.modules[module.__name__] = module
    streams = {"stdin": sys.stdin, "stdout": sys.stdout, "stderr": sys.stderr, "path": sys.path, "argv": sys.argv}
    vars(module).update(prepared | streams, __name__=module.__name__)
    if function is None:
        _execute(source, module)
    else:
        _call(source, module, function)


def _execute(source: str, module: ModuleType) -> None:
    with suppress(SystemExit):  # The usual way to end early, with any code.
        exec(compile(source, "solution.py", "exec", dont_inherit=True), vars(module))


def _call(source: str, module: ModuleType, function: str) -> NoReturn:
    given = sys.stdin.read()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    exec(compile(source, "solution.py", "exec", dont_inherit=True), vars(module))
    names = vars(module)
    arguments, keywords = load(given, names)  # whose nodes may be of the program's own classes
    *wrappers, name = function.split(" ")
    called = getattr(names["Solution"](), name) if "Solution" in names else names[name]
    value = called(*arguments, **keywords)
    for wrapper in reversed(wrappers):
        outer, *numbers = wrapper.split(":")
        value = getattr(builtins, outer)(value, *map(int, numbers))
    with open(RESULT, "w", encoding="utf-8") as result:
        result.write(dump_result(value))
    os._exit(0)
