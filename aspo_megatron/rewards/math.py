r"""The reward `math`: 1 if the response's answer equals the reference by math-verify's rules, else 0.

The answer of a response is its last `\boxed{...}`, else its last `<answer>` tag, else what follows `####`, else the
last formula or number in it. An answer that is a word or a letter counts only in a box or a tag.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import sympy
from math_verify import verify
from math_verify.parser import parse_latex_cached
from sympy.core.cache import clear_cache

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.answers import TooBigError, goes_on, read_answer
from aspo_megatron.rewards.cpu_clock import CPU_SECONDS, OutOfTimeError, cpu_limit
from aspo_megatron.rewards.equations import is_told_apart
from aspo_megatron.rewards.finite import is_finite_where_needed
from aspo_megatron.rewards.formula import MAX_LENGTH, choose_side, find_formula, is_boxed, last_side, says_unequal
from aspo_megatron.rewards.latex_size import LIMIT, latex_size
from aspo_megatron.rewards.magnitude import Size
from aspo_megatron.rewards.references import flaw, parse_reference, reference_text
from aspo_megatron.rewards.sympy_size import sympy_size
from aspo_megatron.rewards.text import named
from aspo_megatron.rewards.values import same_by_value
from aspo_megatron.rewards.words import read_word_reference, read_words

# math-verify warns that its own time limit is off; the one of `score` and the reward pool's hold instead.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_MORE_THAN_THE_REFERENCE = 1.5
_ALGEBRA = replace(LIMIT, digits=3000.0)
"""For what is compared by algebra: that looks for factors of numbers, which nothing can interrupt."""

_LARGEST_REFERENCE = 100_000.0
"""Digits above which an answer is right only if it is written as the reference is."""

_LETTER = re.compile(r"\(?[A-Z]\)?")


class _UnreadableError(Exception):
    """Nothing can be read in a reference."""


def score(problem: Problem, response: str, *, seconds: float = CPU_SECONDS) -> float:
    """Compare the response's answer with `problem.answer`.

    An answer is wrong that says what something is not, and so is one that is not written as the reference is and too
    big to compute, or that takes longer than `seconds` of processor time.

    To a reference with nothing in it no answer is equal.

    Raises:
        ValueError: the problem has no reference answer, or one that math-verify cannot read.
    """
    if problem.answer is None:
        raise ValueError(f"{named(problem)} has no reference answer")
    text = reference_text(problem.answer)
    boxed = f"\\boxed{{{text}}}"
    formula = find_formula(response, max(MAX_LENGTH, 3 * len(text)))
    if formula is not None:
        formula = choose_side(formula, _LETTER.fullmatch(text) is not None)
        if text and _squeezed(formula) == _squeezed(boxed):
            return 1.0
    try:
        return _grade(text, formula, seconds)
    except _UnreadableError:
        if flaw(problem.answer) == "empty":
            return 0.0
        raise ValueError(
            f"math-verify cannot read the reference answer {problem.answer!r} of {named(problem)}"
        ) from None


@lru_cache(maxsize=4096)
def _grade(text: str, formula: str | None, seconds: float) -> float:
    """Remembered, as many responses to a problem give the same answer."""
    try:
        with cpu_limit(seconds):
            size = latex_size(text)
            if size.digits > _LARGEST_REFERENCE:
                return 0.0
            reference = parse_reference(text)
            if not reference:
                raise _UnreadableError
            if formula is None or (says_unequal(formula) and not says_unequal(f"\\boxed{{{text}}}")):
                return 0.0
            words, given = read_word_reference(text), read_words(formula)
            if words is not None and given is not None:
                return float(words == given)
            if words is not None:
                reference = parse_reference(rf"\text{{{words}}}")
            read = sympy_size(reference[0])
            about = (size.join(read) if read.digits <= _LARGEST_REFERENCE else size).grown(_MORE_THAN_THE_REFERENCE)
            answer = _read_within(formula, about, reads_last_side="=" not in text)
            if not answer or (goes_on(formula if is_boxed(formula) else answer[-1]) and not goes_on(text)):
                return 0.0
            is_product = words is not None and isinstance(answer[0], sympy.Mul | sympy.Pow)
            return 0.0 if is_product else _compare(reference, answer, about)
    except OutOfTimeError:
        _forget()
        return 0.0
    except MemoryError:
        _forget()
        raise


def _compare(reference: list[Any], answer: list[Any], about: Size) -> float:
    """Compare with a reference, where an answer may be `about` that large if that is more than the limits."""
    same = same_by_value(reference[0], answer[0]) if len(answer) > 1 else None
    if same is None and all(sympy_size(read).fits(_ALGEBRA.join(about)) for read in answer):
        same = (
            is_finite_where_needed(reference[0], *answer)
            and verify(reference, answer, timeout_seconds=None)
            and is_told_apart(reference[0], answer[0])
        )
    return float(same or False)


def _read_within(formula: str, about: Size, *, reads_last_side: bool) -> list[Any]:
    """The answer; nothing if it is too big."""
    try:
        return _read(formula, LIMIT.join(about), reads_last_side)
    except TooBigError:
        return []


def _read(formula: str, limit: Size, reads_last_side: bool) -> list[Any]:
    """The answer. Of an equation whose other side alone is too big, the last side if that is what counts."""
    try:
        return read_answer(formula, limit)
    except TooBigError as error:
        last = last_side(error.text) if reads_last_side else None
        if last is None:
            raise
        return read_answer(last, limit)


def _forget() -> None:
    """Drop what libraries had half done when they were interrupted, and might take for done."""
    clear_cache()
    parse_latex_cached.cache_clear()
    parse_reference.cache_clear()


def _squeezed(formula: str) -> str:
    return "".join(formula.split())
