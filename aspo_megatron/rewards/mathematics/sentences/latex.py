r"""Plain formulas as LaTeX: `2*sqrt(3)`, `3pi`, `{3, 4}`, `x >= 3`, `3 million`, `negative 3`, `3 and a half`."""

from __future__ import annotations

import re

from aspo_megatron.rewards.mathematics.forms.characters import as_latex
from aspo_megatron.rewards.mathematics.sentences.tokens import FUNCTIONS

_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "\u4e07": 4, "\u4ebf": 8}
_NAME = re.compile(rf"(?<![A-Za-z\\])(?:{'|'.join(sorted(FUNCTIONS, key=len, reverse=True))})(?![A-Za-z])")
_NAMES = {"sqrt": "\u221a", "cbrt": "\u221b", "infinity": r"\infty ", "inf": r"\infty "}
_WRITTEN = ((">=", r"\ge "), ("<=", r"\le "), ("!=", r"\ne "), ("==", "="), ("+/-", r"\pm "))
_TIMES = re.compile(r"(?<=[\d%)])\s*[xX]\s*(?=[.\d])")
_MINUS = re.compile(r"(?:\b(?:negative|minus)\b|\u8d1f)\s*", re.IGNORECASE)
_PARTS = {"half": 2, "third": 3, "quarter": 4}


def as_formula(text: str) -> str:
    """A plain formula, with what words make of its number, as LaTeX."""
    text = re.sub(r"(?<!\\)\$|\\[()\[\]]", " ", text).strip()
    text = _MINUS.sub("-", text) if _MINUS.match(text) else text
    text = re.sub(
        r"\s+and\s+(?:a|one)\s+(half|third|quarter)", lambda match: rf"+\frac{{1}}{{{_PARTS[match[1].lower()]}}}", text
    )
    for name, exponent in _SCALES.items():
        text = re.sub(rf"\s*{name}\Z", rf" \\times 10^{{{exponent}}}", text, flags=re.IGNORECASE)
    text = re.sub(r"\s*dozen\Z", r" \\times 12", text)
    text = re.sub(r"\s*(squared|cubed)\Z", lambda match: "^2" if match[1] == "squared" else "^3", text)
    text = re.sub(r"\s*percent(?:age)?\Z", r"\\%", text, flags=re.IGNORECASE)
    text = _TIMES.sub(r" \\times ", text)
    for plain, command in _WRITTEN:
        text = text.replace(plain, command)
    if text.startswith("{") and text.endswith("}"):
        text = rf"\{{{text[1:-1]}\}}"
    return as_latex(_NAME.sub(lambda match: _NAMES.get(match[0], rf"\{match[0]} "), text))
