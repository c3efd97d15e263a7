"""Tests that are asserts of Python, as AceCode, MBPP, HumanEval and LeetCode's datasets keep them.

They are read and never run: a process that a response's program is in could say of any assert that it holds. So what
is asserted has to be that a call with constants gives a constant.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

from aspo_megatron.rewards.jail.arguments import dump

_PROGRAM = re.compile(r"^[ \t]*(?:assert\b|def\s|class\s|import\s|from\s|@|#)", re.MULTILINE)
_CHECK, _CANDIDATE = "check", "candidate"
_LONGEST = 1 << 20
_SHOWN = 80

Called = tuple[str, str, Any]
"""The name of the function, its arguments (see `jail.arguments`), and what it should return, as JSON has it."""


def is_program(text: str) -> bool:
    """Whether a text seems to be Python."""
    return _PROGRAM.search(text) is not None


def read_asserts(program: str, candidate: str | None) -> Iterator[Called]:
    """The calls that asserts are about: those of a program, or of its function `check(candidate)`.

    Args:
        program: e.g. `assert f(1, [2]) == 3`.
        candidate: the function that is called `candidate` in it.

    Raises:
        ValueError: there is something else than such asserts in it.
    """
    if len(program) > _LONGEST:
        raise ValueError(f"asserts of more than {_LONGEST >> 20} MiB")
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in the texts of others
            body = ast.parse(program.strip()).body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"asserts that are not Python: {error}") from error
    checks = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == _CHECK]
    for statement in checks[-1].body if checks else body:
        if not isinstance(statement, ast.Assert):
            if not checks or not _does_nothing(statement):
                raise _unread(statement)
            continue
        yield _called(statement, candidate)


def _does_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _called(statement: ast.Assert, candidate: str | None) -> Called:
    test = statement.test
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is)):
        raise _unread(statement)
    call, right = test.left, test.comparators[0]
    if not isinstance(call, ast.Call):
        call, right = right, call
    if not isinstance(call, ast.Call):
        raise _unread(statement)
    try:
        arguments = [ast.literal_eval(argument) for argument in call.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
        if len(keywords) < len(call.keywords):
            raise _unread(statement)
        given = dump(arguments, keywords)
        expected = json.loads(json.dumps(ast.literal_eval(right)))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise _unread(statement) from None
    return _name(call.func, statement, candidate), given, expected


def _name(function: ast.expr, statement: ast.stmt, candidate: str | None) -> str:
    """Of a function, or of a method of the class `Solution`."""
    if isinstance(function, ast.Attribute):
        return function.attr
    if not isinstance(function, ast.Name):
        raise _unread(statement)
    if function.id != _CANDIDATE or candidate is None:
        return function.id
    return candidate.rpartition(".")[2]


def _unread(statement: ast.stmt) -> ValueError:
    text = ast.unparse(statement)
    return ValueError(
        f"{text[:_SHOWN]!r} is not read: of programs only asserts that a call with constants gives a constant, as in "
        "`assert f(1, [2]) == 3`, since others would have to be run beside the response, which could forge their result"
    )
