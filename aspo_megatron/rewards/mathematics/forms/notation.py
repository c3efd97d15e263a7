r"""Ways of writing that would not be read, in the form that is: `\frac\pi3`, `\lg 2`, `C_{10}^{3}`, `\sin 30^\circ`."""

from __future__ import annotations

import re
from collections.abc import Callable

from aspo_megatron.rewards.mathematics.forms.characters import closing

NAMES = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|lg|log|exp"
"""Functions whose argument may stand without brackets."""

_FRACTION = re.compile(r"\\(?:[dtc]?frac|nicefrac|sfrac)(?![a-zA-Z])")
_TOKEN = re.compile(r"\s*(\{|\\[a-zA-Z]+|[A-Za-z0-9])")
_ROOT_IN_BRACKETS = re.compile(r"\\sqrt\s*\(([^()]*)\)")
_CHOOSE = re.compile(
    r"(?<![A-Za-z\\])(?:C|\\(?:mathrm|text)\s*\{\s*C\s*\})\s*_\s*(?:\{(\d+)\}|(\d))\s*\^\s*(?:\{(\d+)\}|(\d))"
    r"|(?:\{\s*\})?\s*[_^]\s*(?:\{(\d+)\}|(\d))\s*C\s*_\s*(?:\{(\d+)\}|(\d))"
)
_ANGLE = re.compile(
    r"(?P<name>\\(?:sin|cos|tan|cot|sec|csc)(?:\s*\^\s*(?:\{-?\d\}|\d))?)\s*(?:\\left\s*)?[({]?\s*"
    r"(?P<degrees>\d+(?:\.\d+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))\s*(?:\\right\s*)?[)}]?"
)
_Change = str | Callable[[re.Match[str]], str]


def _choose(match: re.Match[str]) -> str:
    above, below = [number for number in match.groups() if number]
    return rf"\binom{{{above}}}{{{below}}}" if int(below) <= int(above) else match[0]


_CHANGES: tuple[tuple[re.Pattern[str], _Change], ...] = (
    (re.compile(r"\\([lr])brace(?![a-zA-Z])"), lambda match: r"\{" if match[1] == "l" else r"\}"),
    (re.compile(r"\\(?:cr(?![a-zA-Z])|\\\s*\[\s*\d[\d.]*\s*[a-z]{2}\s*\])"), r"\\\\"),
    (re.compile(r"\{\s*\\cdot\s*\}"), r"\\cdot "),
    (re.compile(r"\{([^{}]{1,80})\\over(?![a-zA-Z])([^{}]{1,80})\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"(?<=[\w)])!=(?=\s*[-\w\\])"), "! ="),
    (re.compile(r"\{\s*([.:])\s*\}"), r"\1"),
    (re.compile(r"\\colon(?![a-zA-Z])|\u2236"), ":"),
    (re.compile(r"\\mathord\s*\{\s*,\s*\}|(?<=\d)\\thinspace\s+(?=\d)|(?<=\d)\s+\{,\}\s+(?=\d)"), "{,}"),
    (re.compile(r"\\(?:text)?degrees?(?![a-zA-Z])|[\u00ba\u02da]"), r"^{\\circ}"),
    (re.compile(r"(?<=\d)\^\s*(?:\{\s*)?(?:\\(?:text|mathrm)\s*\{\s*o\s*\}|\\,\s*\\circ)(?:\s*\})?"), r"^{\\circ}"),
    (re.compile(r"(?<=\d)(?:\^o|\^\{o\})(?![a-zA-Z])|(?<=\d)\\text\s*\{\s*\^\{\\circ\}\s*\}"), r"^{\\circ}"),
    (
        re.compile(rf"(?<![A-Za-z\\{{_])(?:{NAMES})(?=\s*(?:[\d(^]|_\{{?\d|[a-z](?![a-z])|\\(?:left|pi|theta)))"),
        r"\\\g<0>",
    ),
    (re.compile(r"(?<![A-Za-z\\{_])sqrt(?=\s*[\d(\[{])"), r"\\sqrt"),
    (re.compile(r"\\text\s*\{\s*sqrt\s*\}"), r"\\sqrt"),
    (re.compile(r"(?<![A-Za-z\\{_])pi(?![A-Za-z])|\\uppi(?![a-zA-Z])"), r"\\pi "),
    (_ROOT_IN_BRACKETS, r"\\sqrt{\1}"),
    (re.compile(r"\\lg(?![a-zA-Z])"), r"\\log_{10}"),
    (re.compile(r"\\log\s*_\s*(?:\{\s*e\s*\}|e(?![a-zA-Z]))"), r"\\ln"),
    (re.compile(r"\\cdot\s*i(?![a-zA-Z])"), " i"),
    (_CHOOSE, _choose),
    (_ANGLE, r"\g<name>\\left(\\frac{\g<degrees>\\pi}{180}\\right)"),
)


def usual(formula: str) -> str:
    """The formula in the usual notation, which is read."""
    for pattern, change in _CHANGES:
        formula = pattern.sub(change, formula)
    return _with_whole_fractions(formula)


def _with_whole_fractions(formula: str) -> str:
    r"""With braces around both parts of each fraction."""
    parts, done = [], 0
    for match in _FRACTION.finditer(formula):
        if match.start() < done:
            continue
        above, end = _argument(formula, match.end())
        below, end = _argument(formula, end)
        if above is None or below is None:
            continue
        inside = rf"\frac{{{_with_whole_fractions(above)}}}{{{_with_whole_fractions(below)}}}"
        parts += [formula[done : match.start()], inside]
        done = end
    return "".join([*parts, formula[done:]])


def _argument(formula: str, start: int) -> tuple[str | None, int]:
    """What a command has at this position as its argument, without braces, and where it ends."""
    match = _TOKEN.match(formula, start)
    if match is None:
        return None, start
    if match[1] != "{":
        if match[1] in (r"\frac", r"\sqrt"):
            return None, start
        return match[1], match.end()
    end = closing(formula, match.end())
    return (None, start) if end < 0 else (formula[match.end() : end], end + 1)
