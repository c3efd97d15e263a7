"""What math-verify is to read in a response's answer, and the bound on what that may cost."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from typing import Any

from latex2sympy2_extended.math_normalization import normalize_latex
from math_verify import ExprExtractionConfig, LatexExtractionConfig
from math_verify.parser import extract_match, get_extraction_regexes

from aspo_megatron.rewards.closed_forms import evaluated
from aspo_megatron.rewards.formula import is_too_big
from aspo_megatron.rewards.magnitude import Size
from aspo_megatron.rewards.sympy_size import sympy_size

TARGETS = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())

_LATEX = re.compile(r"(?:first|next\d)_latex(\w+)")
_GOES_ON = re.compile(r"[,;]\s*(?:\\[lc]?dots[a-z]?(?![a-zA-Z])|\.\.\.|\u2026)[^=]*\Z")


class TooBigError(Exception):
    """Computing an answer could take for ever. `text` is the answer."""

    def __init__(self, text: str) -> None:
        super().__init__("the answer is too big to be computed")
        self.text = text


def read_answer(formula: str, limit: Size) -> list[Any]:
    """What `math_verify.parse` gives, which nothing is computed for that exceeds the limit.

    Args:
        formula: a formula in a box, or a text to find one in.
        limit: for each formula that would be read.

    Raises:
        TooBigError: one exceeds it.
    """
    patterns = [
        (pattern, target, priority)
        for expressions, target in get_extraction_regexes(TARGETS)
        for pattern, priority in expressions
    ]
    first = None
    for _, group in groupby(sorted(patterns, key=lambda entry: entry[2]), key=lambda entry: entry[2]):
        matches = [(match, target) for pattern, target, _ in group for match in pattern.finditer(formula)]
        for match, target in sorted(matches, key=lambda found: (found[0].end(), -found[0].start()), reverse=True):
            _check(match, target, limit)
            read, text = extract_match(match, target)
            first = first or text
            if read is None:
                continue
            if not sympy_size(read).fits(limit):
                raise TooBigError(text)
            return [evaluated(read), first]
    return [first] if first else []


def _check(match: re.Match[str], target: Any, limit: Size) -> None:
    """Refuse what would be too big, before it is read."""
    for name, content in match.groupdict().items():
        latex = _LATEX.fullmatch(name)
        if not content or not (latex or name == "expr"):
            continue
        text = _normalized(content, target, latex[1]) if latex else content
        if is_too_big(text, limit):
            raise TooBigError(text)


def _normalized(latex: str, target: Any, environment: str) -> str:
    """What math-verify makes of it before it is read."""
    config = target.normalization_config
    normalized: str = normalize_latex(latex, replace(config, boxed="last") if environment == "Boxed" else config)
    return normalized


def goes_on(formula: str) -> bool:
    r"""Whether a list, in the last side of a formula, is not given in full: `1,2,\ldots`, which is read as 1 and 2."""
    return _GOES_ON.search(formula) is not None
