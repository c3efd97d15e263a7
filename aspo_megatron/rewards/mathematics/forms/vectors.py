r"""Columns, angle brackets and systems as tuples and lists: `\begin{pmatrix}1\\2\end{pmatrix}` is `(1,2)`."""

from __future__ import annotations

import re

_SMALL = re.compile(
    r"\\left\s*(?:\[|\()\s*\\begin\s*\{(?:array|matrix|smallmatrix)\}(?:\s*\{[lcr|]*\})?(?P<rows>[^\[\]()]*)"
    r"\\end\s*\{(?:array|matrix|smallmatrix)\}\s*\\right\s*(?:\]|\))"
)
_ANGLES = re.compile(
    r"\\left\s*(?:<|\\langle(?![a-zA-Z]))(?P<first>(?:(?!\\[lr]angle)[^<>])*)\\right\s*(?:>|\\rangle(?![a-zA-Z]))"
    r"|\\langle(?![a-zA-Z])(?P<second>(?:(?!\\[lr]angle)[^<>])*)\\rangle(?![a-zA-Z])"
)
_COLUMN = re.compile(
    r"(?:[A-Za-z\\{}_ ]{0,40}=\s*)?\\begin\s*\{(?P<kind>[pb]matrix)\}(?P<rows>[^&]*)\\end\s*\{(?P=kind)\}\s*"
)
_SYSTEM = re.compile(
    r"(?:\\left\s*\\\{\s*)?\\begin\s*\{(?P<kind>array|cases|aligned)\}\s*(?:\{[lcr|]*\})?(?P<rows>[^&{}]*)"
    r"\\end\s*\{(?P=kind)\}\s*(?:\\right\s*\.?)?\s*"
)


def as_lists(formula: str) -> str:
    """A column of a matrix, or what is said to equal one, as the tuple of its rows; a system of equations as a list."""
    formula = _ANGLES.sub(_tuple, formula)
    formula = _SMALL.sub(r"\\begin{pmatrix}\g<rows>\\end{pmatrix}", formula)
    system = _SYSTEM.fullmatch(formula.strip())
    if system is not None and "=" in system["rows"]:
        return ", ".join(_rows(system["rows"]))
    column = _COLUMN.fullmatch(formula.strip())
    if column is None:
        return formula
    rows = _rows(column["rows"])
    return f"({', '.join(rows)})" if len(rows) > 1 and "" not in rows else formula


def _tuple(match: re.Match[str]) -> str:
    inside = match["first"] or match["second"] or ""
    return f"({inside})" if "," in inside else match[0]


def _rows(text: str) -> list[str]:
    rows = [row.strip(" ,\n") for row in text.split(r"\\")]
    return rows if rows[-1] else rows[:-1]
