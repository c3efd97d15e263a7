"""What counts as a number, of all that a user's function may give."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat


def as_number(value: Any) -> float | None:
    """A finite number as a float; None if it is none, or there are several.

    Numbers are those of Python (truth values, Decimals and Fractions too), scalars of other libraries, and arrays or
    tensors with one element. Text is none, even if it could be read as one, nor is a complex number.
    """
    # Arrays and tensors of any library give their only element by `item`, so that none of these has to be imported.
    if not isinstance(value, type) and callable(getattr(value, "item", None)):
        try:
            value = value.item()
        except Exception:  # Each library has errors of its own for several elements, or for none.
            return None
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, SupportsFloat):
        return None
    try:
        number = float(value)
    except Exception:  # Too large an integer, a NaN that signals, or whatever a user's class does.
        return None
    return number if math.isfinite(number) else None
