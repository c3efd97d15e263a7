"""docs/alarms.md says what the alarms do."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from aspo_megatron.metrics.alarms import ALARMS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "alarms.md"


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("alarms_page", ROOT / "tools" / "alarms_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == tool().page(), "run: python tools/alarms_page.py"


def test_each_alarm_has_a_row_with_its_rule() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for alarm in ALARMS:
        (row,) = [row for row in rows if row.startswith(f"| {alarm.name} |")]
        assert f"| `{alarm.metric}` | {alarm.when} | {alarm.why} |" in row
