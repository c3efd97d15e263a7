"""Tests that are asserts of Python, as AceCode, MBPP, HumanEval and LeetCode's datasets keep them.

They are read and never run: a process that a response's program is in could say of any assert that it holds. So what
is asserted has to be that a call with constants gives a constant.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aspo_megatron.errors import UserError
from aspo_megatron.rewards.programs.constants import constant
from aspo_megatron.rewards.programs.jail.arguments import dump, dump_result

_PROGRAM = re.compile(r"^[ \t]*(?:assert\b|def\s|class\s|import\s|from\s|@|#)", re.MULTILINE)
_CHECK_DEFINED = re.compile(r"^def\s+check\s*\(\s*candidate\b", re.MULTILINE)
_LONGEST = 1 << 20
_MOST_CALLED = 1 << 25
_SHOWN = 80
_UNREAD = (ValueError, TypeError, ArithmeticError, SyntaxError, MemoryError, RecursionError)

_WRAPPERS = ("bool", "float", "int", "len", "list", "round", "set", "sorted", "str", "tuple")
_SAME_NODES = ("is_same_list", "is_same_tree")
_RELATIVE = 1e-9
"""By default, of `math.isclose`."""

Names = Mapping[str, str]
"""What names in a program stand for, in the response."""


@dataclass(frozen=True)
class Called:
    """What an assert says.

    Attributes:
        function: its name, after those of what its result goes through (see `jail.program.run`).
        given: its arguments, see `jail.arguments`.
        expected: what that should give, see `jail.arguments.dump_result`.
        tolerance: how far a number may be from it, in units of the larger of 1 and that number; None if the assert
            is about equality.
    """

    function: str
    given: str
    expected: Any
    tolerance: float | None = None


def is_program(text: str) -> bool:
    """Whether a text seems to be Python."""
    return _PROGRAM.search(text) is not None


def has_check(text: Any) -> bool:
    """Whether it is a text that defines `check(candidate)`."""
    return isinstance(text, str) and _CHECK_DEFINED.search(text) is not None


def read_asserts(program: str, candidate: str | None) -> Iterator[Called]:
    """The calls that asserts are about: those of a program, or of its function `check(candidate)`.

    Args:
        program: e.g. `assert f(1, [2]) == 3`.
        candidate: the function that is called `candidate` in it; None if the program may say so (`check(f)`).

    Raises:
        ValueError: there is something else than such asserts in it, or it is large.
        UserError: their constants are, as `'x' * 9999` is.
    """
    if len(program) > _LONGEST:
        raise ValueError(f"asserts of more than {_LONGEST >> 20} MiB")
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in the texts of others
            body = ast.parse(program.strip()).body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"asserts that are not Python: {error}") from error
    names: Names = {} if candidate is None else {"candidate": candidate}
    checks = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if checks:
        names = _called_for(checks[-1], candidate or _checked(body))
        body = checks[-1].body
    lists: dict[str, list[ast.expr]] = {}
    size = 0
    for statement in body:
        match statement:
            case ast.Assign([ast.Name(name)], ast.List(values)) if checks:
                lists[name] = values
                continue
        if _does_nothing(statement, in_check=bool(checks)):
            continue
        try:
            for called in _said(statement, names, lists):
                size += len(called.given) + len(json.dumps(called.expected))
                if size > _MOST_CALLED:
                    raise UserError(f"asserts with constants of more than {_MOST_CALLED >> 20} MiB")
                yield called
        except _UNREAD:
            raise _unread(statement) from None


def _checked(body: list[ast.stmt]) -> str | None:
    """What a program calls its function `check` with."""
    for statement in body:
        match statement:
            case ast.Expr(ast.Call(ast.Name("check"), [function])) if ast.unparse(function) != "candidate":
                return ast.unparse(function)
    return None


def _called_for(check: ast.FunctionDef, function: str | None) -> Names:
    """What the parameter of `check` stands for."""
    if function is None:
        raise ValueError(
            "the name of the function that `check` is to be called with is missing: give it as entry_point"
        )
    return {parameter.arg: function for parameter in check.args.args[:1]}


def _does_nothing(statement: ast.stmt, *, in_check: bool) -> bool:
    """An import is of what asserts use; what they call is the response's, so it must not have another name."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return all(alias.asname is None for alias in statement.names)
    if isinstance(statement, ast.Assert):
        return isinstance(statement.test, ast.Constant) and bool(statement.test.value)
    return in_check and (
        isinstance(statement, ast.Pass)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant | ast.Name))
    )


def _said(statement: ast.stmt, names: Names, lists: Mapping[str, list[ast.expr]]) -> Iterator[Called]:
    """What an assert says, or a loop of EvalPlus's; an error, of many kinds, if it is not read."""
    match statement:
        case ast.Assert(test):
            yield _called(test, names)
        case ast.For(
            iter=ast.Call(ast.Name("enumerate"), [ast.Call(ast.Name("zip"), [ast.Name(inputs), ast.Name(results)])]),
            body=[ast.Expr(ast.Call(ast.Name("assertion"), [ast.Call(function, [ast.Starred()]), ast.Name(), most]))],
        ) if lists.keys() >= {inputs, results}:
            tolerance = constant(most) or None
            for given, result in zip(lists[inputs], lists[results], strict=True):
                if not isinstance(given, ast.List | ast.Tuple):
                    raise ValueError("no arguments")
                called = _equal(ast.Call(function, given.elts, []), result, names)
                yield replace(called, tolerance=tolerance)
        case _:
            raise ValueError("no assert")


def _called(test: ast.expr, names: Names) -> Called:
    """Of what is asserted; errors as in `_said`."""
    match test:
        case ast.Compare(left, [ast.Eq() | ast.Is()], [right]):
            return _equal(left, right, names)
        case ast.Call(ast.Name(name), [left, right], []) if name in _SAME_NODES:
            return _equal(left, right, names)
        case ast.Compare(
            ast.Call(ast.Name("abs"), [ast.BinOp(left, ast.Sub(), right)]), [ast.Lt() | ast.LtE()], [most]
        ):
            return _near(left, right, 0.0, constant(most), names)
        case ast.Call(ast.Name("isclose") | ast.Attribute(ast.Name("math"), "isclose"), [left, right], keywords):
            within = {str(keyword.arg): constant(keyword.value) for keyword in keywords}
            relative, absolute = within.pop("rel_tol", _RELATIVE), within.pop("abs_tol", 0.0)
            if within:
                raise ValueError("math.isclose")
            return _near(left, right, relative, absolute, names)
        case ast.UnaryOp(ast.Not(), call):
            return _result(call, False, names, "bool ")
    return _result(test, True, names, "bool ")


def _equal(left: ast.expr, right: ast.expr, names: Names) -> Called:
    try:
        expected = constant(right)
    except ValueError:
        left, expected = right, constant(left)
    return _result(left, expected, names)


def _near(left: ast.expr, right: ast.expr, relative: float, absolute: float, names: Names) -> Called:
    near = _equal(left, right, names)
    if not isinstance(near.expected, int | float):
        raise TypeError("no number")
    size = abs(float(near.expected))
    allowed = max(relative * size, absolute) / max(1.0, size)
    return Called(near.function, near.given, float(near.expected), allowed)


def _result(call: ast.expr, expected: Any, names: Names, through: str = "") -> Called:
    """That a call gives something, perhaps after functions of Python's."""
    if not isinstance(call, ast.Call):
        raise ValueError("no call")
    wrapper = call.func.id if isinstance(call.func, ast.Name) else None
    if wrapper in _WRAPPERS and call.args and isinstance(call.args[0], ast.Call) and not call.keywords:
        numbers = [constant(one) for one in call.args[1:]]
        if not all(type(number) is int for number in numbers):
            raise ValueError("no digits")
        name = ":".join((wrapper, *map(str, numbers)))
        return _result(call.args[0], expected, names, f"{through}{name} ")
    arguments = [constant(argument) for argument in call.args]
    keywords = {str(keyword.arg): constant(keyword.value) for keyword in call.keywords if keyword.arg}
    if len(keywords) < len(call.keywords):
        raise ValueError("**")
    name = through + _name(call.func, names)
    return Called(name, dump(arguments, keywords), json.loads(dump_result(expected)))


def _name(function: ast.expr, names: Names) -> str:
    """Of a function, or of a method of the class `Solution`."""
    match function:
        case ast.Name(name) if name in names:
            return _name(ast.parse(names[name], mode="eval").body, {})
        case ast.Name(name):
            return name
        case ast.Attribute(ast.Name("Solution" | "solution") | ast.Call(ast.Name("Solution"), []), name):
            return name
    raise ValueError("no name")


def _unread(statement: ast.stmt) -> ValueError:
    text = ast.unparse(statement)
    return ValueError(
        f"{text[:_SHOWN]!r} is not read: of programs only asserts that a call with constants gives a constant "
        "(`assert f(1, [2]) == 3`), since others would run beside the response, which could forge them; write it so"
    )
