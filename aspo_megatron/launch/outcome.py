"""How a launch ended: whose fault is shown, and the exit code."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aspo_megatron.foreign_text import one_line, safe
from aspo_megatron.launch.hang_verdict import Verdict, ranks_text
from aspo_megatron.launch.rank import USER_ERROR_CODE
from aspo_megatron.launch.rank_process import Failure, RankProcess
from aspo_megatron.launch.rank_status import connection_lost
from aspo_megatron.streams import say


@dataclass(frozen=True)
class Outcome:
    """How ranks have ended.

    Attributes:
        text: why, in lines; empty if all have ended well.
        code: 0; 2 after a user error; 128 + the signal that has ended them; else 1.
        said: rank 0 has shown the text itself.
    """

    text: str = ""
    code: int = 0
    said: bool = False


def told(outcome: Outcome) -> int:
    """Show why ranks have ended, if there is anything to say; the exit code."""
    if outcome.text and not outcome.said:
        say(outcome.text)
    return outcome.code


def explain(failures: Sequence[Failure], verdict: Verdict, ranks: Sequence[RankProcess], log_dir: Path) -> Outcome:
    """The first failure, or whom the ranks have waited for; every rank's is put into its log."""
    for failure in failures:
        rank = ranks[failure.rank]
        if failure.reported:
            with contextlib.suppress(OSError), rank.log.open("a", encoding="utf-8") as log:
                log.write(safe(failure.text))
            rank.report.unlink(missing_ok=True)
    if not failures:
        return Outcome()
    first = min(failures, key=_order)
    if verdict.late:
        late = ranks_text(verdict.late)
        end = f"error: {late} did not arrive and the run was ended; all output is in {one_line(log_dir)}/rank*.log"
        return Outcome(f"{verdict.text}\n{end}", 1)
    tail = ranks[first.rank].tail()
    if first.code == USER_ERROR_CODE:
        # A rank that ends with code 2 by itself has said why in its last line; rank 0 has said it to the terminal.
        said = not first.text and first.rank == 0
        return Outcome(f"{first.text or ''.join(tail[-1:])}", USER_ERROR_CODE, said)
    how = "failed"
    if not first.text:
        how = f"ended with exit code {first.code}" if first.code > 0 else f"was killed by {_signal_name(-first.code)}"
        how += "; its last output" if tail else ", without any output"
    body = first.text or "\n".join(tail)
    head = f"rank {first.rank} of {len(ranks)} {how}"
    end = f"error: rank {first.rank} failed and the run was ended; all output is in {one_line(log_dir)}/rank*.log"
    return Outcome(f"{head}:\n{body}\n{end}" if body else f"{head}\n{end}", 1)


def _order(failure: Failure) -> tuple[bool, float]:
    """A lost connection tells of another rank's end, though that may be noticed later: the kernel first tidies up."""
    return connection_lost(failure.text), failure.when


def _signal_name(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{name} (the machine may have run out of memory)" if number == signal.SIGKILL else name
