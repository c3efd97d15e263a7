"""What in the metrics of a run says that it learns nothing, or that something is broken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from aspo_megatron.metrics.alarms import Settings, alarms_of, standing

SILENT_STEPS, SILENT_SECONDS = 5.0, 120.0
"""A run that goes is silent if it has written nothing for so many times its longest step, and so long at least."""


def alarms(records: Sequence[Mapping[str, float]], settings: Settings | None = None) -> list[str]:
    """What is alarming in the last steps, the worst first, a line each; then what was, before.

    Args:
        records: the metrics by step, as `read_metrics` gives them.
        settings: of the run, as far as they are known.
    """
    trained = [record for record in records if "reward/mean" in record]
    if not trained:
        return []
    last = trained[-1]
    broken = [name for name, value in last.items() if not math.isfinite(value)]
    more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
    lost = [f"not a number in step {last['step']:.0f}: {', '.join(broken[:3])}{more}"] if broken else []
    if settings is not None and not settings.alarms:
        return lost
    now = standing(records)
    over = [raised for raised in alarms_of(records) if raised.collapse and raised.name not in now]
    before = ", ".join(f"{raised.name} (step {raised.step})" for raised in over)
    return lost + list(now.values()) + ([f"earlier, and over: {before}"] if before else [])


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
