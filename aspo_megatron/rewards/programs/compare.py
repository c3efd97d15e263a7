"""Whether what a program gave is what its test expects, as LiveCodeBench, APPS and CodeContests compare.

The expected output is the problem's, the other one may be anything: memory and time are bounded by the expected one,
and by reading the other one once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from itertools import zip_longest
from typing import Any

_MAX_NUMBER_LENGTH = 400
# The line ends of `str.splitlines`.
_LINE = re.compile("([^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]*)(?:\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]|\\Z)")
# Exponents that Decimal holds without becoming infinite or zero.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,16})?")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_INFINITY = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
# Of its own, so that no number becomes infinite, and settings of a scorer beside this one do not matter.
_EXACT = Context(prec=1000, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])


def same_output(actual: str, expected: str, tolerance: float) -> bool:
    """Line by line, without the space around lines and between words; empty lines at both ends do not count.

    Words are equal as texts or as numbers in ASCII: exactly if the expected one is an integer (1.0 is 1), within the
    tolerance if it is written with a point or an exponent. Infinity is infinity of the same sign.

    Args:
        actual: what the program wrote.
        expected: what it should have written.
        tolerance: absolute, and relative to numbers above 1; 0 for exact comparison.
    """
    lines = zip_longest(_lines(actual.strip()), expected.strip().splitlines())
    return all(
        line is not None and wanted is not None and _same_line(line, wanted.split(), tolerance)
        for line, wanted in lines
    )


def _lines(text: str) -> Iterator[str]:
    """What `splitlines` gives, one after the other."""
    end = 0
    while end < len(text):
        match = _LINE.match(text, end)
        assert match is not None
        yield match[1]
        end = match.end()


def _same_line(line: str, wanted: list[str], tolerance: float) -> bool:
    words = line.split(None, len(wanted))
    if len(words) != len(wanted):
        return False
    if words:
        words[-1] = words[-1].rstrip()  # the rest of the line, if it was split so often
    return all(word == right or _same_number(word, right, tolerance) for word, right in zip(words, wanted, strict=True))


def _same_number(word: str, wanted: str, tolerance: float) -> bool:
    number, right = _number(word), _number(wanted)
    if number is None or right is None:
        return False
    return number == right or (_INTEGER.fullmatch(wanted) is None and _close(number, right, tolerance))


def _number(word: str) -> Decimal | None:
    is_number = len(word) <= _MAX_NUMBER_LENGTH and (_NUMBER.fullmatch(word) or _INFINITY.fullmatch(word))
    return Decimal(word) if is_number else None


def _close(number: Decimal, wanted: Decimal, tolerance: float) -> bool:
    """Within the tolerance, if both are finite."""
    if not (number.is_finite() and wanted.is_finite()):
        return False
    error = _EXACT.abs(_EXACT.subtract(number, wanted))
    allowed = _EXACT.multiply(Decimal(repr(tolerance)), max(Decimal(1), _EXACT.abs(wanted)))
    return error <= allowed


def same_value(actual: Any, expected: Any, tolerance: float) -> bool:
    """Values from JSON: equal, floats within the tolerance (see `same_output`).

    Args:
        actual: what a function returned.
        expected: what it should have returned; lists and tuples are the same.
        tolerance: for numbers where a float is expected.
    """
    if isinstance(expected, list | tuple):
        return (
            isinstance(actual, list | tuple)
            and len(actual) == len(expected)
            and all(same_value(value, right, tolerance) for value, right in zip(actual, expected, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(actual, dict)
            and actual.keys() == expected.keys()
            and all(same_value(actual[key], right, tolerance) for key, right in expected.items())
        )
    if isinstance(expected, float) and isinstance(actual, int | float):
        return actual == expected or _close(_decimal(actual), _decimal(expected), tolerance)
    return bool(actual == expected)


def _decimal(value: float) -> Decimal:
    """A number as it is written."""
    return Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)
