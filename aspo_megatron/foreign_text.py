"""Text that came from elsewhere (models, problems, files, errors about them), made plain before anyone is shown it."""

from __future__ import annotations

import unicodedata


def safe(text: object) -> str:
    """Any value as plain text that neither a browser nor a terminal takes for more than text.

    Control characters, those that turn the reading direction, and lone surrogates become visible: a picture of the
    control character, `\\u202e`, or the replacement character. Newlines and tabs stay. HTML still needs escaping.
    """
    return "".join(_visible(character) for character in str(text))


def one_line(text: object) -> str:
    """Like `safe`, for a place in a line: newlines and tabs become visible, too."""
    return safe(text).replace("\n", "\N{SYMBOL FOR LINE FEED}").replace("\t", "\N{SYMBOL FOR HORIZONTAL TABULATION}")


def reason_of(error: BaseException, most: int = 300) -> str:
    """An error of a library in a line: its class, and the first `most` characters of what it says."""
    said = one_line(" ".join(str(error).split()))
    return f"{type(error).__name__}: {said[:most]}" if said else type(error).__name__


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t" or " " <= character <= "~":
        return character
    if code < 0x20 or code == 0x7F:
        return chr(0x2421 if code == 0x7F else 0x2400 + code)
    category = unicodedata.category(character)
    if category == "Cs":
        return "\N{REPLACEMENT CHARACTER}"
    # Joiners (of emoji and of several scripts) are format characters that do nothing by themselves.
    if category in ("Cc", "Zl", "Zp") or (category == "Cf" and code not in (0x200C, 0x200D)):
        return f"\\u{code:04x}"
    return character
