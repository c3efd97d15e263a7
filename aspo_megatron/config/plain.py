"""Characters that have no place in a value which becomes part of a line, such as one of a batch script."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", str, Path, None, tuple[str, ...])

_BREAKING = ("Cc", "Zl", "Zp", "Cs")
"""Control characters (C0, DEL, C1), the separators of lines and paragraphs, and what cannot be written as UTF-8."""


def breaking_character(text: str, allowed: str = "") -> str | None:
    """The first character that ends a line, or is no text, such as `U+000A`; None if there is none."""
    found = (one for one in text if one not in allowed and unicodedata.category(one) in _BREAKING)
    return next((f"U+{ord(one):04X}" for one in found), None)


def plain(value: T) -> T:
    """A text, a path or several texts, as they are.

    Raises:
        ValueError: there is a character in them that ends a line, or is no text.
    """
    texts: tuple[str, ...] = value if isinstance(value, tuple) else () if value is None else (str(value),)
    for text in texts:
        if found := breaking_character(text):
            raise ValueError(f"has the control character {found}, and must be one line of text")
    return value
