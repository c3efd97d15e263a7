r"""The reward `math`: 1 if the response's answer equals the reference by math-verify's rules, else 0.

The answer of a response is its last `\boxed{...}`, else its last `<answer>` tag, else what follows `####`, else the
last formula or number in it. An answer that is a word counts only in a box or a tag, a letter also
as all that is said at the end.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import sympy
from math_verify import verify
from sympy.core.cache import clear_cache

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.cpu_clock import CPU_SECONDS, OutOfTimeError, cpu_limit
from aspo_megatron.rewards.mathematics.compare.equations import is_told_apart, tells_value
from aspo_megatron.rewards.mathematics.compare.finite import is_finite_where_needed
from aspo_megatron.rewards.mathematics.compare.kinds import alike, same_in_kind
from aspo_megatron.rewards.mathematics.compare.sides import tells_nothing
from aspo_megatron.rewards.mathematics.compare.values import same_by_value
from aspo_megatron.rewards.mathematics.cost.latex_size import LIMIT, latex_size
from aspo_megatron.rewards.mathematics.cost.magnitude import Size
from aspo_megatron.rewards.mathematics.cost.sympy_size import sympy_size
from aspo_megatron.rewards.mathematics.forms.measures import without_asked
from aspo_megatron.rewards.mathematics.forms.options import read_option, said_option, same_letters, tells_options
from aspo_megatron.rewards.mathematics.forms.percents import percentages
from aspo_megatron.rewards.mathematics.forms.set_signs import joined_otherwise
from aspo_megatron.rewards.mathematics.forms.tidy import tidied
from aspo_megatron.rewards.mathematics.forms.words import plain_text, read_word_reference
from aspo_megatron.rewards.mathematics.reading.answers import (
    TooBigError,
    forget_parsed,
    goes_on,
    last_formula,
    read_answer,
    written,
)
from aspo_megatron.rewards.mathematics.reading.formula import (
    MAX_LENGTH,
    boxed,
    find_formula,
    has_prose,
    is_boxed,
    last_side,
    last_statement,
    says_unequal,
    unboxed,
)
from aspo_megatron.rewards.mathematics.reading.references import flaw, parse_reference, reference_text
from aspo_megatron.rewards.mathematics.reading.repeated import repeats
from aspo_megatron.rewards.text import named

# math-verify warns that its own time limit is off; the one of `score` and the reward pool's hold instead.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_DELIMITER = re.compile(r"\$|\\[(\[]")
_MORE_THAN_THE_REFERENCE = 1.5
_ALGEBRA = replace(LIMIT, digits=3000.0)
"""For what is compared by algebra: that looks for factors of numbers, which nothing can interrupt."""

_LARGEST_REFERENCE = 100_000.0
"""Digits above which an answer is right only if it is written as the reference is."""


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
    max_length = max(MAX_LENGTH, 3 * len(text))
    said = last_statement(response) if "$" in text or has_prose(text) else ""
    if len(said) <= max_length and _is_written(text, said):
        return 1.0
    formula = find_formula(response, max_length)
    try:
        return float(_grade(text, formula, problem.question, seconds))
    except _UnreadableError:
        if flaw(problem.answer) == "empty":
            return 0.0
        raise ValueError(
            f"math-verify cannot read the reference answer {problem.answer!r} of {named(problem)}"
        ) from None


@lru_cache(maxsize=4096)
def _grade(text: str, formula: str | None, question: str, seconds: float) -> bool:
    """Remembered, as many responses to a problem give the same answer."""
    try:
        with cpu_limit(seconds):
            if formula is None or ("=" not in text and is_boxed(formula) and tells_nothing(unboxed(formula), question)):
                _read_reference(text)
                return False
            if not is_boxed(formula):
                if formula.strip() and any(map(str.isalpha, text)) and _is_written(text, formula):
                    return True
                formula = _formula_in(formula, text)
            return formula is not None and _is_right(text, unboxed(formula), question)
    except OutOfTimeError:
        _forget()
        return False
    except MemoryError:
        _forget()
        raise


def _formula_in(text: str, reference: str) -> str | None:
    option = said_option(text) if tells_options(reference) else None
    if option is not None:
        return boxed(option)
    try:
        found = last_formula(text, LIMIT.join(_about(reference, _read_reference(reference))))
    except TooBigError as error:
        return boxed(error.text)
    if found is None or _DELIMITER.search(text) or not tells_options(reference):
        return found
    return None if read_option(unboxed(found)).letter is not None else found


def _is_right(text: str, content: str, question: str) -> bool:
    """Compare an answer: letter and value of an option where both are told, else what both have."""
    same = same_letters(text, content)
    if same is not None:
        return same
    reference, given = read_option(text), read_option(content)
    if (
        reference.letter
        and given.letter
        and (reference.letter != given.letter or None in (reference.value, given.value))
    ):
        return reference.letter == given.letter
    wanted = text if reference.value is None else reference.value
    told = content if given.value is None else given.value
    both = (alike(wanted, each, question) for each in dict.fromkeys((told, without_asked(told, question))))
    pairs = (pair for each in both if each is not None for pair in percentages(*each, question))
    return any(_is_same(*pair, question) for pair in pairs)


def _is_same(text: str, content: str, question: str) -> bool:
    """Compare a formula with a reference."""
    if _is_written(text, content):
        return True
    reference = _read_reference(text)
    same = same_in_kind(text, content, question)
    if same is not None:
        return same
    if not reference or _says_other(text, content, question):
        return False
    words = read_word_reference(text)
    if words is not None:
        reference = parse_reference(rf"\text{{{words}}}")
    about = _about(text, reference)
    answer = _read_within(boxed(content), about, reads_last_side="=" not in text)
    if not answer or (words is not None and isinstance(answer[0], sympy.Mul | sympy.Pow)):
        return False
    return _compare(reference, answer, about, question) and not repeats(content, question)


def _says_other(text: str, content: str, question: str) -> bool:
    """Whether an answer is of another kind: it says what something is not, goes on, or is no equation as it must be."""
    is_other = any(says(content) and not says(text) for says in (says_unequal, goes_on))
    return is_other or ("=" not in content and tells_nothing(text, question))


def _is_written(text: str, content: str) -> bool:
    """Whether an answer is written as the reference is."""
    if joined_otherwise(text, content):
        return False
    tidy, plain = tidied(text), plain_text(text)
    return tidy != "" and (written(tidy) == written(tidied(content)) or "" != plain == plain_text(content))


def _read_reference(text: str) -> list[Any]:
    """The reference; nothing if it is too big to be read.

    Raises:
        _UnreadableError: there is nothing to compare with.
    """
    if latex_size(tidied(text)).digits > _LARGEST_REFERENCE:
        return []
    reference = parse_reference(text)
    if not reference:
        raise _UnreadableError
    return reference


def _about(text: str, reference: list[Any]) -> Size:
    """How large an answer may be for a reference of this size."""
    size = latex_size(tidied(text))
    if reference and not isinstance(reference[0], str):
        read = sympy_size(reference[0])
        size = size.join(read) if read.digits <= _LARGEST_REFERENCE else size
    return size.grown(_MORE_THAN_THE_REFERENCE)


def _compare(reference: list[Any], answer: list[Any], about: Size, question: str) -> bool:
    """Compare what was read, where an answer may be `about` that large if that is more than the limits."""
    if isinstance(reference[0], str) or isinstance(answer[0], str):
        return bool(reference[-1] == answer[-1])
    if not tells_value(reference[0], answer[0], answer[-1], question):
        return False
    same = same_by_value(reference[0], answer[0]) if len(answer) > 1 else None
    if same is None and all(sympy_size(read).fits(_ALGEBRA.join(about)) for read in answer):
        same = (
            is_finite_where_needed(reference[0], *answer)
            and verify(reference, answer, allow_set_relation_comp=True, timeout_seconds=None)
            and is_told_apart(reference[0], answer[0])
        )
    return bool(same)


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
    forget_parsed()
    parse_reference.cache_clear()
