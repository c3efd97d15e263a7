"""The benchmark of the log-prob computation, at sizes that take seconds: it runs to its end and writes what it says."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from benchmarks.log_prob import BUDGETS, GRIDS, MEMORY, TP
from benchmarks.log_prob_methods import OURS, Case
from benchmarks.log_prob_report import CaseResult, Report, TpResult, write
from benchmarks.measure import interleaved, peak_bytes

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.log_prob", *options]
    env = {**os.environ, **environment}
    return subprocess.run(command, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=110)


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its first two lines."""
    section = text.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]


@pytest.mark.distributed
@pytest.mark.timeout(120)
def test_quick_run(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- log-prob table -->\nold\n<!-- end -->\nafter\n")
    done = run("--grid", "quick", "--repeats", "1", "--out", str(tmp_path), "--readme", str(readme))
    assert done.returncode == 0, done.stderr
    shown = readme.read_text()
    assert shown.startswith("before\n<!-- log-prob table -->\n| forward")
    assert shown.endswith("|\n<!-- end -->\nafter\n")
    assert "old" not in shown
    assert re.search(r"time of token-wise losses / log_softmax \| [\d.]+ \|", shown)
    text = (tmp_path / "log_prob_benchmark.md").read_text()
    times = rows_of(text, "Time")
    assert [row[0] for row in times] == [*(str(case) for case in GRIDS["quick"]), "**median**"]
    assert all(re.fullmatch(r"[\d.]+", cell) for row in times[:-1] for cell in row[1:8])
    for name in (*OURS, "log_softmax", "megatron", "cross_entropy", "linear_cross_entropy", "three products"):
        assert name in text
    assert "Liger: runs on GPUs only." in text
    assert "Apple cut-cross-entropy: runs on GPUs only." in text
    assert [row[0] for row in rows_of(text, "Peak memory at")] == [str(case) for case in MEMORY["quick"]]
    assert [row[0] for row in rows_of(text, "Buffers of a chunk")] == [f"{budget} MiB" for budget in BUDGETS]
    tp = rows_of(text, "tp=2")
    assert [(row[0], row[1]) for row in tp] == [(str(TP["quick"][0]), name) for name in OURS]
    assert all(float(cell) >= 0 for row in tp for cell in row[2:])
    assert (tmp_path / "images" / "log_prob_benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_case_that_is_none(tmp_path: Path) -> None:
    done = run("--case", "12x", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "--case" in done.stderr
    assert not list(tmp_path.iterdir())


def test_gpu_that_is_none(tmp_path: Path) -> None:
    done = run("--device", "cuda", "--out", str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "cuda" in done.stderr.lower()


def test_ratios_and_medians(tmp_path: Path) -> None:
    """Known numbers through the table; what did not fit in memory is said to be so."""
    seconds = {"token-wise": 2.0, "log_softmax": 4.0, "cross_entropy": 2.5, "three products": 1.6}
    peak = {name: 2**20 * size for name, size in zip(seconds, (100, 1600, 1200, 400), strict=True)}
    cases = [
        CaseResult(Case(8, 4, 10), 2**22, seconds, peak),
        CaseResult(Case(16, 4, 10), 2**22, {**seconds, "token-wise": 3.0}, peak),
        CaseResult(Case(32, 4, 10), 2**22, {"token-wise": 5.0}, {"token-wise": 2**20}, {"log_softmax": 2**30}),
    ]
    report = Report("a machine", cases, [], [(8, 2.0), (32, 1.0)], {"Other": "no reason"})
    table, picture = write(report, [TpResult(Case(8, 4, 10), "token-wise", 3.0, 2.0, 2**21, 2**20)], tmp_path)
    text = table.read_text()
    times = rows_of(text, "Time")
    assert times[0] == ["8 x 4 x 10", "4.00", "0.50", "0.62", "0.40", "-", "0.80", "1.25"]
    assert times[1][2] == "0.75"
    assert times[2][1:4] == ["too large"] * 3
    assert times[3] == ["**median**", "", "**0.62**", "**0.62**", "**0.40**", "-", "**1.00**", "**1.56**"]
    memory = rows_of(text, "Peak memory")
    assert memory[0] == ["8 x 4 x 10", "4", "100", "1600", "1200", "400", "-", "0.062"]
    assert memory[2] == ["32 x 4 x 10", "4", "1", "not run: up to 1024", "-", "-", "-", "-"]
    assert rows_of(text, "Buffers of a chunk") == [["8 MiB", "2.00"], ["32 MiB", "1.00"]]
    assert rows_of(text, "tp=2")[0][2:] == ["3.00", "2.00", "1.50", "2", "1"]
    assert picture.exists()


def test_peak_memory_of_a_known_allocation() -> None:
    # In a process of its own: a test before this one may have told malloc to keep what is freed.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        size = process.submit(peak_bytes, allocate, CPU).result(timeout=60)
        assert 60 << 20 <= size <= 80 << 20  # Linux counts pages in batches
        assert process.submit(peak_bytes, nothing, CPU).result(timeout=60) < 8 << 20


def allocate() -> None:
    first = torch.ones(16 << 20)
    del first
    torch.ones(8 << 20)


def nothing() -> None:
    pass


def test_rounds_interleave() -> None:
    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, repeats=3, limit=60.0)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    assert len(interleaved({"a": lambda: None}, CPU, repeats=3, limit=0.0)["a"]) == 1
