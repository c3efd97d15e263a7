"""Characters that have no place in a value which becomes part of a line, such as one of a batch script."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from aspo_megatron.foreign_text import one_line

T = TypeVar("T", str, Path, None, tuple[str, ...])


def breaking_character(text: str, allowed: str = "") -> str | None:
    """The first character that ends a line, turns the reading direction or is no text, as `U+000A`; else None.

    What is printed with such a character, as a batch script is, would be read otherwise than it works.
    """
    found = (one for one in text if one not in allowed and one_line(one) != one)
    return next((f"U+{ord(one):04X}" for one in found), None)


def plain(value: T) -> T:
    """A text, a path or several texts, as they are.

    Raises:
        ValueError: there is a character in them that ends a line, turns the reading direction or is no text.
    """
    texts: tuple[str, ...] = value if isinstance(value, tuple) else () if value is None else (str(value),)
    for text in texts:
        if found := breaking_character(text):
            raise ValueError(f"has the control character {found}, and must be one line of text")
    return value


def some_path(value: object) -> object:
    """A path as it is given.

    Raises:
        ValueError: its text is empty, which would be the current directory.
    """
    if isinstance(value, str) and not value.strip():
        raise ValueError("is empty; name a folder")
    return value


def refuse_no_address(key: str, text: str) -> None:
    """See that requests can be sent to the text that `key` holds.

    Raises:
        ValueError: it does not begin with http:// or https://, or is followed by no host, or no port.
    """
    if not text.startswith(("http://", "https://")):
        raise ValueError(f"{key}: {text!r} does not begin with http:// or https://")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError as error:  # half of a bracketed address, a port of letters, a name with a part of 64 letters
        raise ValueError(f"{key}: {text!r} is no address such as http://node1:30000: {error}") from error
    if not host or port == 0 or parts.query or parts.fragment or any(map(str.isspace, text)):
        raise ValueError(f"{key}: {text!r} is no address such as http://node1:30000")
