"""Answers that may be handed to those of reasoning-gym's rules that have Python compute them.

Several rules do that, with `eval` or SymPy's parser, in the worker: an answer could run any code there, look up the
right answer, or compute for ever.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from typing import Literal

from aspo_megatron.rewards.mathematics.reading.formula import is_too_big

Computes = Literal["nothing", "literals", "formulas"]
"""What a rule has Python compute of an answer."""

_EVALUATES = re.compile(r"(?<![\w.])(?:eval|exec)\(\s*answer")
_PARSES = re.compile(r"(?:parse_expr|sympify)\(\s*answer")
_HUGE_EXPONENT = re.compile(r"[\d.][eE][+-]?[\d_]{5,}")
_SHORT = 10_000
_LONGER_THAN_THE_REFERENCE = 20
_LITERALS = (ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.USub, ast.Load)
_FORMULAS = (
    *(ast.Expression, ast.Constant, ast.Tuple, ast.Name, ast.Load, ast.Call, ast.BinOp, ast.UnaryOp),
    *(ast.USub, ast.UAdd, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow),
)
_FUNCTIONS = frozenset(
    (
        *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh"),
        *("atanh", "exp", "log", "ln", "sqrt", "Abs", "Rational", "Integral", "erf"),
    )
)
_NAMES = frozenset(["pi", "alpha", "beta", "gamma", "theta", "lamda", "mu", "phi", "omega"])


def computes(rule: Callable[..., float]) -> Computes:
    """What a rule has Python compute, as its source says."""
    module = inspect.getmodule(rule)
    try:
        source = inspect.getsource(module) if module is not None else ""
    except (OSError, TypeError):
        return "nothing"
    if _PARSES.search(source):
        return "formulas"
    return "literals" if _EVALUATES.search(source) else "nothing"


def is_plain(answer: str, reference: str, kind: Computes) -> bool:
    """Whether an answer is of a sane length, and holds nothing but what may be computed."""
    if len(answer) > max(_SHORT, _LONGER_THAN_THE_REFERENCE * len(reference)) or _HUGE_EXPONENT.search(answer):
        return False
    if kind == "nothing" or answer.strip() == reference.strip():
        return True
    try:
        tree = ast.parse(answer.strip(), mode="eval")
    except SyntaxError:
        return kind == "literals"  # Python computes nothing then; SymPy's parser knows more.
    except (ValueError, MemoryError, RecursionError):
        return False
    nodes = list(ast.walk(tree))
    if kind == "literals":
        return all(isinstance(node, _LITERALS) for node in nodes)
    return (
        all(isinstance(node, _FORMULAS) and _is_mathematics(node) for node in nodes)
        and _integrals(answer) <= _integrals(reference)
        and not is_too_big(answer)
    )


def _integrals(formula: str) -> set[str]:
    """The integrals that a formula leaves as they are: that of the question says nothing, unless nobody knows more."""
    try:
        nodes = ast.walk(ast.parse(formula.strip(), mode="eval"))
    except SyntaxError:
        return set()
    return {ast.dump(node) for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "Integral"}


def _is_mathematics(node: ast.AST) -> bool:
    """Numbers, variables of one letter, and known functions."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Call(func=function, keywords=keywords):
            return isinstance(function, ast.Name) and function.id in _FUNCTIONS and not keywords
        case ast.Name(id=name):
            return len(name) == 1 or name in _NAMES or name in _FUNCTIONS
    return True
