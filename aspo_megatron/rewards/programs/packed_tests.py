"""Unpacking LiveCodeBench's private tests: JSON, pickled as a text, zlib, base64.

They come from a dataset, so nothing in them is run, and what they unpack to is bounded.
"""

from __future__ import annotations

import base64
import pickletools
import zlib

MOST_UNPACKED = 128 << 20
"""Bytes of a problem's tests; those of LiveCodeBench's largest problems are some tens of MiB."""

_TEXTS = ("UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING")
_BYTES = ("BINBYTES", "BINBYTES8", "SHORT_BINBYTES")
_HARMLESS = ("PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP")
_MOST_OPERATIONS = 100


def unpack(packed: str) -> str | bytes:
    """The JSON in packed tests.

    Raises:
        ValueError: it is something else, or too large.
    """
    compressed = base64.b64decode(packed, validate=True)
    reader = zlib.decompressobj()
    try:
        pickled = reader.decompress(compressed, MOST_UNPACKED + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(pickled) > MOST_UNPACKED:
        raise ValueError(f"packed tests of more than {MOST_UNPACKED >> 20} MiB")
    if not reader.eof or reader.unused_data:
        raise ValueError("packed tests that are cut off" if not reader.eof else "packed tests with something behind")
    return _pickled_text(pickled)


def _pickled_text(pickled: bytes) -> str | bytes:
    """The one text that a pickle holds, read without unpickling it: other operations can run code, or take for ever."""
    texts: list[object] = []
    end = 0
    for count, (operation, argument, position) in enumerate(pickletools.genops(pickled)):
        if operation.name in _TEXTS or operation.name in _BYTES:
            texts.append(argument)
        elif operation.name not in _HARMLESS or count > _MOST_OPERATIONS:
            name = argument if operation.name == "GLOBAL" else ".".join(map(_shortened, texts[-2:]))
            raise ValueError(f"packed tests that are no text but ask for {_shortened(name)} ({operation.name})")
        end = (position or 0) + 1
    if len(texts) != 1 or end != len(pickled) or not isinstance(texts[0], str | bytes):
        raise ValueError("packed tests that are not one text")
    return texts[0]


def _shortened(text: object) -> str:
    return str(text)[:100]
