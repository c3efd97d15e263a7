"""Text that came from elsewhere (models, problems, files, errors about them), made plain before anyone is shown it."""

from __future__ import annotations

import logging
import os
import re
import unicodedata

_MARKDOWN = re.compile(
    r"""
    [&<>|`*\\~$]            # HTML, cells, code, emphasis, escapes, mathematics
    | (?<![^\W_])_ | _(?![^\W_])  # emphasis, which the _ in a name is not
    | \[(?=\^) | \](?=[(\[:])  # footnotes and links, which a mark like [1] is not
    | @(?!\d+(?![\w.-]))     # addresses, which avg@64 is not
    | (?<=www)\. | :(?=//)   # what becomes a link by itself
    """,
    re.VERBOSE | re.IGNORECASE,
)


def safe(text: object) -> str:
    """Any value as plain text that neither a browser nor a terminal takes for more than text.

    Control characters, those that turn the reading direction, and lone surrogates become visible: a picture of the
    control character, `\\u202e`, or the replacement character. Newlines and tabs stay. HTML still needs escaping.
    """
    return "".join(_visible(character) for character in str(text))


def one_line(text: object) -> str:
    """Like `safe`, for a place in a line: newlines and tabs become visible, too."""
    return safe(text).replace("\n", "\N{SYMBOL FOR LINE FEED}").replace("\t", "\N{SYMBOL FOR HORIZONTAL TABULATION}")


def counted(number: int, noun: str) -> str:
    """So many of something: `1 step`, `2,000 steps`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def placed(path: object) -> str:
    """A path in a line; of a relative one also the directory that it is relative to."""
    return f"{one_line(path)}{sought_in(path)}"


def sought_in(path: object) -> str:
    """In brackets, the directory that a relative path is relative to; nothing for others."""
    if os.path.isabs(str(path)):
        return ""
    try:
        return f" (in {one_line(os.getcwd())})"
    except OSError:  # somebody has removed it
        return ""


def reason_of(error: BaseException, most: int = 300) -> str:
    """An error of a library in a line: its class, and the first `most` characters of what it says."""
    said = one_line(" ".join(str(error).split()))
    return f"{type(error).__name__}: {said[:most]}" if said else type(error).__name__


def printed(text: str) -> str:
    """Like `safe`, for what a program prints: lone surrogates are escapes, other systems' ends of lines are such."""
    encodable = text.encode("utf-8", errors="backslashreplace").decode("utf-8")
    return safe(encodable.replace("\r\n", "\n"))


def markdown(text: object) -> str:
    """Like `one_line`, for a place in a line or table cell of Markdown: it is neither markup, HTML nor a link there.

    What would be one is written as HTML has single characters, which Markdown takes for text everywhere.
    """
    return _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", one_line(text))


def plain_logger(name: str) -> logging.Logger:
    """The logger of a module: each of its records is one line of plain text, below it a traceback if there is one."""
    logger = logging.getLogger(name)
    logger.addFilter(_make_plain)
    return logger


def _make_plain(record: logging.LogRecord) -> bool:
    record.msg, record.args = one_line(record.getMessage()), ()
    if record.exc_info:
        record.exc_text = safe(logging.Formatter().formatException(record.exc_info))
    return True


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
