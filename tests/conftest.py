"""What all tests take for granted of the process that they run in."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Programs that are started are to hear of SIGHUP, which `nohup make test` would have them ignore."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
