"""One function with a fault in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A fault that somebody could make.

    Attributes:
        file: the module, in `aspo_megatron/`.
        function: the function, with its class: `EmbeddedEngine.generate`.
        old: text of the function, which is there exactly once.
        new: what is in its place in the mutant.
        tests: the tests that are run first, as pytest takes them, seen from `tests/`. They are of the fast subset, and
            named so that the fault is noticed soon.
    """

    file: str
    function: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def title(self) -> str:
        """File and function, for people."""
        return f"{self.file}: {self.function}"

    def applied(self, source: str) -> str:
        """The module with the fault.

        Args:
            source: the module as it is.

        Raises:
            ValueError: the function is not there, its text is not as expected, or the result is no Python.
        """
        first, last = _lines_of(ast.parse(source), self.function)
        lines = source.splitlines(keepends=True)
        body = "".join(lines[first - 1 : last])
        if (found := body.count(self.old)) != 1:
            raise ValueError(f"{self.title} has {self.old!r} {found} times, not once")
        mutated = "".join((*lines[: first - 1], body.replace(self.old, self.new), *lines[last:]))
        try:
            if ast.dump(ast.parse(mutated)) == ast.dump(ast.parse(source)):
                raise ValueError(f"{self.title}: the fault changes nothing")
        except SyntaxError as error:
            raise ValueError(f"{self.title} is no Python with {self.new!r}: {error}") from error
        return mutated


def _lines_of(tree: ast.AST, function: str) -> tuple[int, int]:
    """First and last line of a function or method, decorators left out."""
    for name, node in _functions(tree, ""):
        if name == function and node.end_lineno is not None:
            return node.lineno, node.end_lineno
    raise ValueError(f"there is no function {function}")


def _functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        else:
            yield from _functions(node, prefix)
