"""The matrix of layouts on the GPUs there are: `pytest -m gpu tests/parallel`, beside other work."""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from pathlib import Path

from benchmarks.gpu_check.commands import Command
from benchmarks.gpu_check.lines import Sheet

_NAME = "pytest -m gpu tests/parallel"
_MARGIN_SECONDS = 8.0
"""Left for the section to end in."""


class MatrixTests(Command):
    """The tests, running from the beginning of the block."""

    def __init__(self, work: Path) -> None:
        self._began = time.monotonic()
        self._there = importlib.util.find_spec("pytest") is not None
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/parallel", "-p", "no:cacheprovider"]
        super().__init__(command if self._there else [sys.executable, "-c", "pass"], work / "pytest.txt")

    def report(self, sheet: Sheet, seconds: float) -> None:
        """Wait for them, `seconds` at most, and write what they say."""
        if not self._there:
            sheet.not_done(_NAME, "pytest is not installed")
            return
        code = self.wait(max(seconds - _MARGIN_SECONDS, 0.0))
        if code is None:
            sheet.not_done(_NAME, f"no time: not finished after {time.monotonic() - self._began:.0f} s")
            return
        counts = counts_of(self.output())
        said = ", ".join(f"{count} {word}" for word, count in counts.items())
        if code or not counts.get("passed"):
            sheet.failed(_NAME, f"exit code {code}, {said or 'no tests'}: {self.last_lines()}")
            return
        sheet.at_least(_NAME, counts["passed"], 1, reference="one process on the CPU", unit="rows", note=said)


def counts_of(output: str) -> dict[str, int]:
    """Of pytest's last line: how many `passed`, `failed`, and so on."""
    rows = [row for row in output.splitlines() if re.search(r"\d+ (passed|failed|skipped|error)", row)]
    return {word: int(count) for count, word in re.findall(r"(\d+) ([a-z]+)", rows[-1])} if rows else {}
