"""The section `matrix` reads what pytest prints, with or without workers, finished or not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_check import matrix
from benchmarks.gpu_check.lines import Line, Place, Sheet, Status, read_lines

from .sheets import claims, small_lines

STEP = "tests/parallel/test_step.py::test_gpus"
ALONE = f"{STEP}[fusion] PASSED [ 50%]\\n{STEP}[dp2] SKIPPED (needs 2 GPUs) [ 60%]\\n{STEP}[bf16] PASSED [100%]"
WORKERS = f"{STEP}[fusion] \\n{STEP}[moe] \\n[gw1] [ 50%] PASSED {STEP}[fusion] \\n[gw0] [ 60%] FAILED {STEP}[moe] "
SUMMARY = f"=== short test summary info ===\\nFAILED {STEP}[moe] - assert False"


def reported(folder: Path, printed: str, then: str, seconds: float = 60.0) -> list[Line]:
    place = Place(torch.device("cuda:0"), False, 1, folder, seconds)
    code = f"import time; print({printed!r}.replace('\\\\n', chr(10)), flush=True); {then}"
    matrix.report(Sheet("matrix", folder / "lines", on_gpu=True), place, [sys.executable, "-c", code])
    return list(read_lines(folder / "lines"))


@pytest.mark.parametrize(
    ("printed", "code", "found"),
    [
        (ALONE, 0, {"all": (Status.PASSED, "fusion, bf16")}),
        (f"{WORKERS}\\n{SUMMARY}", 1, {"test_gpus[moe]": (Status.FAILED, "failed"), "all": (Status.PASSED, "fusion")}),
        (f"{STEP}[dp2] SKIPPED [100%]", 0, {"all": (Status.FAILED, "")}),
        ("ImportError: no module", 4, {"all": (Status.FAILED, "exit code 4: ImportError")}),
    ],
)
def test_pytest_is_read(tmp_path: Path, printed: str, code: int, found: dict[str, tuple[Status, str]]) -> None:
    lines = {line.name.replace(matrix._NAME, "all"): line for line in reported(tmp_path, printed, f"exit({code})")}
    assert {name: line.status for name, line in lines.items()} == {name: status for name, (status, _) in found.items()}
    for name, (_, note) in found.items():
        assert all(word in lines[name].note for word in note.split(", ")), lines[name]


@pytest.mark.parametrize(("printed", "passed"), [(ALONE, 2.0), ("collected 33 items", None)])
def test_rows_that_are_done_in_time_count(tmp_path: Path, printed: str, passed: float | None) -> None:
    lines = reported(tmp_path, printed, "time.sleep(600)", seconds=3.0)
    assert lines[0].status is Status.NOT_DONE
    assert "not finished after 3 s" in lines[0].note
    assert [(line.status, line.figure) for line in lines[1:]] == ([(Status.PASSED, passed)] if passed else [])


def test_without_a_gpu_it_is_not_done(tmp_path: Path) -> None:
    lines = small_lines(matrix.run, tmp_path)
    assert [line.status for line in lines] == [Status.NOT_DONE]
    assert not claims(lines)
