"""All alarms."""

from __future__ import annotations

from aspo_megatron.metrics.alarms.cannot_learn import CANNOT_LEARN
from aspo_megatron.metrics.alarms.collapse import COLLAPSE
from aspo_megatron.metrics.alarms.score import SCORE

ALARMS = (*CANNOT_LEARN, *COLLAPSE, *SCORE)
"""In the order in which the ones of a step are said."""
