"""docs/alarms.md says what the alarms do."""

from __future__ import annotations

from aspo_megatron.metrics.alarms import ALARMS
from tools import alarms_page


def test_the_page_is_up_to_date() -> None:
    """`make docs` makes it anew."""
    assert alarms_page.PAGE.read_text(encoding="utf-8") == alarms_page.page()


def test_each_alarm_has_a_row_with_its_rule() -> None:
    rows = [line for line in alarms_page.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for alarm in ALARMS:
        (row,) = [row for row in rows if row.startswith(f"| {alarm.name} |")]
        assert f"| `{alarm.metric}` | {alarm.when} | {alarm.why} |" in row
