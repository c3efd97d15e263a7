"""The `aspo` command: what stands before anything slow, then `app`."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext

from aspo_megatron import streams
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.launch import garbage, rank
from aspo_megatron.launch.stop import ENDING, StopRequest, ended_by_signals

_SETTING = re.compile(r"-+([a-z]\w*[._][\w.]+)(=.*)?", re.DOTALL)
"""A setting written as an option is: no option has a dot or an underscore in its name."""

_RUNS = ("train", "eval", "check")
"""Commands that start ranks: what they show is no part of what they do."""


def main() -> None:
    """Entry point: a user's error is one line and exit code 2."""
    garbage.search_rarely()
    streams.open_closed()
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    lost: list[OSError] = []
    try:
        # Who has asked for output may read it as slowly as he likes.
        with streams.unfailing() if command in _RUNS else streams.unfailing(lost.append, math.inf):
            _run(command)
    except UserError as error:
        streams.say(f"error: {error}")
        raise SystemExit(2) from error
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            raise
        streams.say(error.code)  # by whoever has ended the command like this
        raise SystemExit(1) from error
    except Exception as error:
        streams.say(traceback.format_exc().rstrip())
        raise SystemExit(1) from error
    finally:
        garbage.skip_last_search()
        if lost:  # what the command was asked for
            if not isinstance(lost[0], BrokenPipeError):
                streams.say(f"error: stdout cannot be written: {lost[0].strerror}")
            raise SystemExit(1)


def _refuse_dashes(words: Iterable[str]) -> None:
    """Say of a setting with dashes before it how settings are written.

    Raises:
        UserError: there is one.
    """
    for word in words:
        if found := _SETTING.fullmatch(word):
            value = found[2] or "=VALUE"
            raise UserError(f"{one_line(word)}: a setting is written without dashes: {one_line(found[1] + value)}")


def _run(command: str) -> None:
    """Import what there is and do what is asked; signals are taken care of from here on."""
    _refuse_dashes(sys.argv[1:])
    stop = None
    with ExitStack() as signals:
        if command == "train" and rank.running_under_launcher(os.environ):
            stop = StopRequest()
            signals.enter_context(ended_by_signals(ENDING))
        elif command == "train":  # until `launch` has ranks to pass them on to
            signals.enter_context(ended_by_signals(ENDING, well=(signal.SIGTERM, signal.SIGUSR1)))
        with ended_by_signals((signal.SIGINT,)) if command != "train" else nullcontext():
            from aspo_megatron.cli.app import app
        app(obj=stop)
