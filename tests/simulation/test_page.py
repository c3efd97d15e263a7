"""The example of docs/simulation.md does what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_example_of_the_page() -> None:
    page = (ROOT / "docs" / "simulation.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    held, waits = done.stdout.splitlines()
    assert f"# {held}" in code
    assert waits.startswith("Counter({'item ")
    assert waits.endswith(": 1})")
