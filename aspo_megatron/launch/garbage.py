"""How often Python looks for garbage: hardly while a program starts, and not at all as it ends.

Imports make half a million objects that all stay. By its own rules Python looks through them again and again
meanwhile, up to a tenth of a start (`benchmarks.start`); a later search through all of them takes half a second.
"""

from __future__ import annotations

import gc
import sys

_RARELY = (100_000, 10, 10)
_BEFORE = gc.get_threshold()


def search_rarely() -> None:
    """For a program that starts: until `started`, which what computes for long calls."""
    gc.set_threshold(*_RARELY)


def started() -> None:
    """All is imported, and never looked at again; what comes from here on is searched by Python's own rules."""
    gc.freeze()
    gc.set_threshold(*_BEFORE)


def skip_last_search() -> None:
    """Spare Python the second or more that it would look through all its modules as it ends.

    Not with Triton, which from 3.8 on lists at length what of it has not been freed by then: with it, all is searched.
    """
    if "triton._C.libtriton" in sys.modules:
        gc.unfreeze()
    else:
        gc.freeze()
