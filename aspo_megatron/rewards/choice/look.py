r"""A text without what only changes its look: full width, bold, code, dollars, LaTeX's fonts, colours and spaces."""

from __future__ import annotations

import re
import unicodedata

_FONT = re.compile(
    r"\\(?:text(?:bf|rm|it|sf|tt|sc|normal)?|math(?:rm|bf|it|sf|tt|bb|cal|frak|normal)|boldsymbol|bm|bold|operatorname"
    r"|underline|mbox|emph)\s{0,9}\{([^{}]*)\}"
)
_DEPTH = 3
"""Fonts within each other."""

_SPACE = re.compile(
    r"\\(?:textcolor|colorbox|color|hspace)\s{0,9}\{[^{}]{0,40}\}"
    r"|\\(?:q?quad|bf|rm|displaystyle|tiny|small|normalsize|large|Large|LARGE|huge|Huge|checkmark)(?![a-zA-Z])|\\ "
    r"|(?<=[{.:)])~|~(?=[}\\])"
)
_MARK = re.compile(
    r"\\(?:left(?=[(\[])|right(?=[)\]]))|(?<!\w)(?:\*\*\*|\*\*|__|[*_])(?=\S)|(?<=\S)(?:\*\*\*|\*\*|__|[*_])(?!\w)"
    r"|<\|[\w \u2581]{1,40}\|>|</s>|[$`]|\\[()\[\],;!]|[\u200b-\u200f\ufeff\ufe0f]"
    r"|[\u2705\u2713\u2714\u2611\u2728\u2b50\U0001f300-\U0001faff]"
)
"""The last line: ticks, stars and pictures, but not crosses."""

_POWER = re.compile(r"\^\{(\w)\}")
_DIGITS = "\u2070\xb9\xb2\xb3\u2074\u2075\u2076\u2077\u2078\u2079"
_RAISED = str.maketrans({raised: f"^{digit}" for digit, raised in enumerate(_DIGITS)})
_SIGNS = str.maketrans(
    {"\u3002": ".", "\u0964": ".", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\xab": '"', "\xbb": '"',
     "\u300c": '"', "\u300d": '"', "\u3010": "[", "\u3011": "]", "\u3001": ","}
)  # fmt: skip
_FORMULA = re.compile(r"(?:\$\$|\\\])[\s.]{0,9}\Z")


def plain(text: str) -> str:
    """The text as it is read: letters and signs of one kind each, no marks of fonts, powers with `^`."""
    # Before the compatible form, which has 102 for ten squared.
    text = unicodedata.normalize("NFKC", text.translate(_RAISED)).translate(_SIGNS)
    text = _SPACE.sub(" ", text)
    for _ in range(_DEPTH):
        text = _FONT.sub(r"\1", text)
    return _POWER.sub(r"^\1", _MARK.sub("", _SPACE.sub(" ", text)))


def ends_in_a_formula(text: str) -> bool:
    """Whether the last thing of a text is a formula of its own line, where a letter is a quantity."""
    return _FORMULA.search(text.rstrip()) is not None
