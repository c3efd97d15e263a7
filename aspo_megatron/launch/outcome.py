"""How a launch ended: whose fault is shown, and the exit code."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

from aspo_megatron.foreign_text import one_line, safe
from aspo_megatron.launch.hang_verdict import Verdict, ranks_text
from aspo_megatron.launch.rank import USER_ERROR_CODE
from aspo_megatron.launch.rank_process import Failure, RankProcess
from aspo_megatron.launch.rank_status import connection_lost
from aspo_megatron.streams import say


def explain(failures: Sequence[Failure], verdict: Verdict, ranks: Sequence[RankProcess], log_dir: Path) -> int:
    """Show the first failure, or whom the ranks have waited for; put every rank's into its log. Returns the code."""
    for failure in failures:
        rank = ranks[failure.rank]
        if failure.reported:
            with contextlib.suppress(OSError), rank.log.open("a", encoding="utf-8") as log:
                log.write(safe(failure.text))
            rank.report.unlink(missing_ok=True)
    if not failures:
        return 0
    first = min(failures, key=_order)
    if verdict.late:
        late = ranks_text(verdict.late)
        say(f"{verdict.text}")
        say(f"error: {late} did not arrive and the run was ended; all output is in {one_line(log_dir)}/rank*.log")
        return 1
    tail = ranks[first.rank].tail()
    if first.code == USER_ERROR_CODE:
        # A rank that ends with code 2 by itself has said why in its last line; rank 0 has said it to the terminal.
        if first.text or first.rank > 0:
            say(f"{first.text or ''.join(tail[-1:])}")
        return USER_ERROR_CODE
    how = "failed"
    if not first.text:
        how = f"ended with exit code {first.code}" if first.code > 0 else f"was killed by {_signal_name(-first.code)}"
        how += "; its last output" if tail else ", without any output"
    body = first.text or "\n".join(tail)
    head = f"rank {first.rank} of {len(ranks)} {how}"
    say(f"{head}:\n{body}" if body else head)
    say(f"error: rank {first.rank} failed and the run was ended; all output is in {one_line(log_dir)}/rank*.log")
    return 1


def _order(failure: Failure) -> tuple[bool, float]:
    """A lost connection tells of another rank's end, though that may be noticed later: the kernel first tidies up."""
    return connection_lost(failure.text), failure.when


def _signal_name(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{name} (the machine may have run out of memory)" if number == signal.SIGKILL else name
