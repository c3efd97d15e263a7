r"""A text without what only changes its look: full width, bold, code, dollars, LaTeX's fonts."""

from __future__ import annotations

import re
import unicodedata

_FONT = re.compile(r"\\(?:text|textbf|textrm|textit|textsf|mathrm|mathbf|mathit|mathsf|mbox|emph)\s{0,9}\{([^{}]*)\}")
_DEPTH = 3
"""Fonts within each other."""

_MARK = re.compile(
    r"\\(?:bf|rm|displaystyle)(?![a-z])[ ]?|(?<!\w)(?:\*\*\*|\*\*|__|[*_])(?=\S)|(?<=\S)(?:\*\*\*|\*\*|__|[*_])(?!\w)"
    r"|[$`]|\\[()\[\],;!]|[\u200b-\u200f\ufeff]"
)
_DIGITS = "\u2070\xb9\xb2\xb3\u2074\u2075\u2076\u2077\u2078\u2079"
_RAISED = str.maketrans({raised: f"^{digit}" for digit, raised in enumerate(_DIGITS)})
_SIGNS = str.maketrans(
    {"\u3002": ".", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\xab": '"', "\xbb": '"', "\u300c": '"',
     "\u300d": '"', "\u3010": "[", "\u3011": "]", "\u3001": ","}
)  # fmt: skip


def plain(text: str) -> str:
    """The text as it is read: letters and signs of one kind each, no marks of fonts, powers with `^`."""
    # Before the compatible form, which has 102 for ten squared.
    text = unicodedata.normalize("NFKC", text.translate(_RAISED)).translate(_SIGNS)
    for _ in range(_DEPTH):
        text = _FONT.sub(r"\1", text)
    return _MARK.sub("", text)
