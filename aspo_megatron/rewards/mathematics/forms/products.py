r"""Products that would be read as something else: `3(4)` as a mixed number, `\sin x \cdot 2` as the sine of `2x`."""

from __future__ import annotations

import re

from aspo_megatron.rewards.mathematics.forms.notation import NAMES

_FACTOR = re.compile(
    r"(?:(?<![\w.^_\\])(?<![_^]\{)(?P<number>\d+(?:\.\d+)?)|(?P<closed>\)))\s*"
    r"(?P<next>(?:\\left\s*)?\(|(?<=\))\d|(?<=\)\s)\d|(?<=\))\\frac(?![a-zA-Z]))"
)
_OPTION = re.compile(r"(?:\A|\{)\s*\(?\s*[A-J]\s*\)\Z")
_FUNCTION = re.compile(rf"\\(?:{NAMES})(?![a-zA-Z])(?:\s*[_^]\s*(?:\{{[^{{}}]*\}}|\w))*\s*")
_ARGUMENT = re.compile(
    r"\{[^{}]*\}|\\frac\s*\{[^{}]*\}\s*\{[^{}]*\}|\\sqrt\s*\{[^{}]*\}"
    r"|(?:\d+(?:\.\d+)?)?\s*(?:(?:[a-zA-Z]|\\(?:pi|theta|alpha|beta|gamma|(?:var)?phi|omega)(?![a-zA-Z]))"
    r"(?:\s*[_^]\s*(?:\{[^{}]*\}|\w))*)?"
)
_TIMES = re.compile(r"\s*(?:\\(?:cdot|times)(?![a-zA-Z])|\*(?!\*))")
_BESIDE = re.compile(r"(?<![_^])\d(?:\s|\\[ ,;:!]|~|\\q?quad(?![a-zA-Z])|\{\s*\})+\d|\d\s*\\[lc]?dots(?![a-zA-Z])\s*\d")


def with_products(formula: str) -> str:
    r"""The formula with `\cdot` where a product has no sign, and with brackets around what functions are of."""
    return _with_brackets(_with_signs(formula))


def has_numbers_beside(formula: str) -> bool:
    """Whether numbers stand side by side with nothing between them, which is no formula."""
    return _BESIDE.search(formula) is not None


def _with_signs(formula: str) -> str:
    parts, done = [], 0
    for match in _FACTOR.finditer(formula):
        if not (match["closed"] and _OPTION.search(formula[: match.start() + 1])):
            position = match.start("next")
            parts += [formula[done:position], r"\cdot "]
            done = position
    return "".join([*parts, formula[done:]])


def _with_brackets(formula: str) -> str:
    parts, done = [], 0
    for match in _FUNCTION.finditer(formula):
        argument = _ARGUMENT.match(formula, match.end())
        if argument is not None and argument[0].strip() and _TIMES.match(formula, argument.end()):
            parts += [formula[done : match.end()], rf"\left({argument[0].strip()}\right)"]
            done = argument.end()
    return "".join([*parts, formula[done:]])
