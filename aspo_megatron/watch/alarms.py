"""What in the metrics of a run says that it learns nothing, or that something is broken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

STEPS = 3
"""A quantity is alarming if it has been in each of the last so many steps."""

ALL_AGREE, CUT, FAILED = 0.9, 0.5, 0.1
"""Shares, from which on they are alarming: of the groups, and of the responses."""

SILENT_STEPS, SILENT_SECONDS = 5.0, 120.0
"""A run that goes is silent if it has written nothing for so many times its longest step, and so long at least."""


def alarms(records: Sequence[Mapping[str, float]]) -> list[str]:
    """What is alarming in the last steps, the worst first, a line each.

    Args:
        records: the metrics by step, as `read_metrics` gives them.
    """
    trained = [record for record in records if "reward/mean" in record][-STEPS:]
    if not trained:
        return []
    found = []
    last = trained[-1]
    if broken := [name for name, value in last.items() if not math.isfinite(value)]:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        found.append(f"not a number in step {last['step']:.0f}: {', '.join(broken[:3])}{more}")
    if skipped := sum(record.get("updates/skipped", 0.0) for record in trained):
        found.append(f"updates/skipped: {skipped:.0f} updates of the last {len(trained)} steps changed nothing")
    if (share := _lasting(trained, "reward/failed")) >= FAILED:
        found.append(f"reward/failed: {share:.0%} of the responses or more could not be scored")
    if len(trained) < STEPS:
        return found
    if all(record["reward/mean"] == 0 for record in trained):
        found.append(f"reward/mean: no response has been rewarded in the last {STEPS} steps")
    if (share := _lasting(trained, "groups/all_agree")) >= ALL_AGREE:
        found.append(f"groups/all_agree: in {share:.0%} of the groups or more all rewards agree, and teach nothing")
    if (share := _lasting(trained, "response_tokens/cut")) >= CUT:
        found.append(f"response_tokens/cut: {share:.0%} of the responses or more are cut at the longest length")
    return found


def silence(records: Sequence[Mapping[str, float]], seconds_since: float) -> str | None:
    """A line if a run that has steps before it is silent.

    Args:
        records: its metrics by step.
        seconds_since: the last line of them.
    """
    # What `seconds/step` leaves out, such as an evaluation, counts as well; its parts count twice, which does no harm.
    longest = max(
        (sum(value for name, value in one.items() if name.startswith("seconds/")) for one in records), default=0
    )
    if not longest or seconds_since < max(SILENT_STEPS * longest, SILENT_SECONDS):
        return None
    return "silent: the run has stopped or hangs, or its disk is slow to show it here"


def _lasting(records: Sequence[Mapping[str, float]], metric: str) -> float:
    """The lowest value of the steps; 0 if one of them does not have it."""
    return min(record.get(metric, 0.0) for record in records)
