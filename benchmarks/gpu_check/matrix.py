"""The matrix of layouts on the GPUs there are: `pytest -m gpu`, each row against one process on the CPU.

Of many rows, each of which starts processes, those count that are done in time.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence

from benchmarks.gpu_check.commands import Command
from benchmarks.gpu_check.lines import Place, Sheet

_NAME = "pytest -m gpu tests/parallel/test_step.py"
_WORKERS = 4
"""Rows at a time, where pytest-xdist is installed: most of a row's time its processes import and compile."""
_OUTCOME = re.compile(r"\b(PASSED|FAILED|ERROR)\b.*?(tests/\S+)|(tests/\S+) (PASSED|FAILED|ERROR)\b")
_SUMMARY = "short test summary info"


def run(sheet: Sheet, place: Place) -> None:
    """All rows for as many GPUs as there are."""
    if not place.on_gpu:
        sheet.not_done(_NAME, "needs a GPU")
    elif importlib.util.find_spec("pytest") is None:
        sheet.not_done(_NAME, "pytest is not installed")
    else:
        report(sheet, place, _command())


def _command() -> list[str]:
    command = [sys.executable, "-m", *_NAME.split(), "-v", "-p", "no:cacheprovider"]
    return [*command, "-n", str(_WORKERS)] if importlib.util.find_spec("xdist") else command


def report(sheet: Sheet, place: Place, command: Sequence[str]) -> None:
    """A line for the rows that have passed, and one for each that has not."""
    env = {**os.environ, "PYTHONHASHSEED": "0"}  # the processes of xdist must find the same tests
    with Command(command, place.work / "pytest.txt", env) as tests:
        code = tests.wait(place.seconds)
    found = outcomes_of(tests.output())
    for test, outcome in found.items():
        if outcome != "PASSED":
            sheet.failed(test.rpartition("::")[2], f"{outcome.lower()}; its output is in {place.work / 'pytest.txt'}")
    if code is None:
        sheet.not_done("the other rows of the matrix", f"no time: not finished after {place.seconds:.0f} s")
    counts = Counter(found.values())
    if code and not counts.total():
        sheet.failed(_NAME, f"exit code {code}: {tests.last_lines()}")
    elif code is not None or counts["PASSED"]:
        rows = ", ".join(test.rpartition("::")[2] for test, outcome in found.items() if outcome == "PASSED")
        sheet.at_least(_NAME, counts["PASSED"], 1, reference="one process on the CPU", unit="rows passed", note=rows)


def outcomes_of(output: str) -> dict[str, str]:
    """What became of each test of a verbose pytest, with or without workers; skipped ones are left out."""
    found = {}
    for row in output.partition(_SUMMARY)[0].splitlines():
        if match := _OUTCOME.search(row):
            found[match[2] or match[3]] = match[1] or match[4]
    return found
