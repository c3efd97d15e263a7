"""What a run's metrics say of a run that cannot learn or collapses: pure functions of its lines of metrics.jsonl."""

from __future__ import annotations

from aspo_megatron.metrics.alarms.cannot_learn import why_nothing
from aspo_megatron.metrics.alarms.settings import Settings, run_settings
from aspo_megatron.metrics.alarms.table import ALARMS
from aspo_megatron.metrics.alarms.watch import Alarms, Raised, alarms_of, alarms_of_run, standing

__all__ = [
    "ALARMS",
    "Alarms",
    "Raised",
    "Settings",
    "alarms_of",
    "alarms_of_run",
    "run_settings",
    "standing",
    "why_nothing",
]
