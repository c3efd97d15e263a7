"""Whether what a program gave is what its test expects, as LiveCodeBench, APPS and CodeContests compare."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from typing import Any

_MAX_NUMBER_LENGTH = 400


def same_output(actual: str, expected: str, tolerance: float) -> bool:
    """Line by line, without the space around lines and between words; empty lines at both ends do not count.

    Words are equal as texts or as numbers: exactly if the expected one is an integer (1.0 is 1), within the
    tolerance if it is written with a point or an exponent.

    Args:
        actual: what the program wrote.
        expected: what it should have written.
        tolerance: absolute, and relative to numbers above 1; 0 for exact comparison.
    """
    lines, wanted = actual.strip().splitlines(), expected.strip().splitlines()
    if len(lines) != len(wanted):
        return False
    return all(_same_line(line.split(), right.split(), tolerance) for line, right in zip(lines, wanted, strict=True))


def _same_line(words: list[str], wanted: list[str], tolerance: float) -> bool:
    if words == wanted:
        return True
    if len(words) != len(wanted):
        return False
    return all(word == right or _same_number(word, right, tolerance) for word, right in zip(words, wanted, strict=True))


def _same_number(word: str, wanted: str, tolerance: float) -> bool:
    if max(len(word), len(wanted)) > _MAX_NUMBER_LENGTH:
        return False
    try:
        if Decimal(word) == Decimal(wanted):
            return True
    except InvalidOperation:
        return False
    is_integer = wanted.lstrip("+-").isdecimal()
    return not is_integer and _close(float(word), float(wanted), tolerance)


def _close(number: float, wanted: float, tolerance: float) -> bool:
    return math.isfinite(number) and abs(number - wanted) <= tolerance * max(1.0, abs(wanted))


def same_value(actual: Any, expected: Any, tolerance: float) -> bool:
    """Values from JSON: equal, floats within the tolerance (see `same_output`).

    Args:
        actual: what a function returned.
        expected: what it should have returned; a list stands for a tuple, too.
        tolerance: for numbers where a float is expected.
    """
    if isinstance(expected, list):
        return (
            isinstance(actual, list)
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
        try:
            return _close(float(actual), expected, tolerance)
        except OverflowError:
            return False
    return bool(actual == expected)
