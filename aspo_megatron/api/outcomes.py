"""How ranks have ended, as a caller in Python is told."""

from __future__ import annotations

import signal

from aspo_megatron.errors import RunError, UserError
from aspo_megatron.launch.outcome import Outcome
from aspo_megatron.launch.rank import USER_ERROR_CODE


def raise_if_failed(outcome: Outcome) -> None:
    """Raise what has ended ranks, if they have not ended well.

    Raises:
        UserError: what a rank could not use, named.
        KeyboardInterrupt: Ctrl-C, or the interrupt of a notebook.
        RunError: a rank has failed, or another signal has ended them.
    """
    if not outcome.code:
        return
    if outcome.code == USER_ERROR_CODE:
        raise UserError(*outcome.text.removeprefix("error: ").splitlines())
    if outcome.code == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    raise RunError(outcome.text)
