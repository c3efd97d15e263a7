"""Runs whose servers generate beside the trainer: they learn as others do, and lose and repeat no problem."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .command import RunFolder, aspo, finish, wait_until
from .test_sglang import LEARNS, ROOT, SERVERS, SGLANG_PYTHON, Serve, figures, on_the_way

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.sglang,
    pytest.mark.thorough,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not SGLANG_PYTHON.exists(), reason="SGLang is not installed: make sglang-cpu"),
]

MODES = {
    "wait": ["rollout.overlap=wait"],
    "continue": ["rollout.overlap=continue"],
    "cut-off": ["rollout.overlap=continue", "rollout.cut_off=0.8"],
    "colocated": ["rollout.servers.colocate=true"],
}
OLDEST = {"wait": 1.0, "continue": 1.0, "cut-off": 2.0, "colocated": 0.0}
"""The largest staleness that each promises."""

RECORDED = ["log.samples_per_step=24", "eval.every=0", "train.steps=9"]
"""All 24 responses of a step are in samples.jsonl."""


@pytest.fixture(scope="module")
def serve(work: Path) -> Iterator[Serve]:
    serving = Serve(work, SERVERS)
    yield serving
    if serving.process.poll() is None:
        serving.end()


@pytest.fixture(scope="module")
def stream(work: Path) -> list[set[str]]:
    """The problems of each step, in a run of the embedded engine."""
    done = aspo("train", "small.yaml", "output_dir=embedded-order", *RECORDED, folder=work)
    assert (done.code, done.stderr) == (0, "")
    return problems(RunFolder(work / "embedded-order"))


def samples(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]


def problems(run: RunFolder) -> list[set[str]]:
    """Of each step, which has them all four times."""
    steps: dict[int, list[str]] = {}
    for sample in samples(run):
        steps.setdefault(sample["step"], []).append(sample["problem"])
    assert sorted(steps) == list(range(1, len(steps) + 1))
    assert all(sorted(asked) == sorted(4 * sorted(set(asked))) for asked in steps.values())
    return [set(steps[step]) for step in sorted(steps)]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_learns_with_the_staleness_that_is_promised(work: Path, serve: Serve, mode: str) -> None:
    run = RunFolder(work / f"learns-{mode}")
    settings = ["rollout.engine=sglang", serve.addresses, *MODES[mode]]
    done = aspo("train", "examples/tiny/run.yaml", f"output_dir={run.path}", *LEARNS, *settings, folder=ROOT)
    assert done.code == 0, done.stderr
    assert [line["step"] for line in run.metrics() if "loss/total" in line] == list(range(1, 9))
    assert run.summary()["heldout_after"] - run.summary()["heldout_before"] > 0.03
    mean, largest = figures(run, "staleness/mean"), figures(run, "staleness/max")
    assert (mean[0], largest[0]) == (0.0, 0.0)  # the first step waits for its own
    assert max(largest) <= OLDEST[mode]
    if mode == "wait":
        assert mean[1:] == largest[1:] == [1.0] * 7
        assert max(figures(run, "staleness/mixed")) == 0.0
    if mode == "colocated":
        assert max(figures(run, "engine_log_prob_diff/max")) < 1e-4
    left = figures(run, "cut_off/groups")
    assert left == ([16.0] * 7 + [0.0] if mode == "cut-off" else [0.0] * 8)  # 64 / 0.8 = 64 + 16 are asked
    assert all(sum(count for _, count in sample["weight_versions"]) == len(sample["tokens"]) for sample in samples(run))


@pytest.mark.parametrize("mode", ["wait", "continue"])
def test_a_killed_run_loses_and_repeats_no_problem(work: Path, serve: Serve, stream: list[set[str]], mode: str) -> None:
    run = RunFolder(work / f"killed-{mode}")
    settings = [serve.addresses, *MODES[mode], *RECORDED, "checkpoint.every=2"]
    process = on_the_way(work, run.path.name, *settings)
    wait_until(lambda: len(run.metrics()) >= 6 and (run.path / "checkpoints").exists(), "six lines")
    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        each.kill()
    process.wait(20)
    done = finish(on_the_way(work, run.path.name, *settings))
    assert done.code == 0, done.stderr
    assert "resuming after step" in done.stdout
    assert problems(run) == stream


def test_a_killed_run_with_a_cut_off_loses_and_repeats_no_problem(
    work: Path, serve: Serve, stream: list[set[str]]
) -> None:
    run = RunFolder(work / "killed-cut-off")
    settings = [serve.addresses, *MODES["cut-off"], *RECORDED, "checkpoint.every=2"]
    process = on_the_way(work, run.path.name, *settings)
    wait_until(lambda: len(run.metrics()) >= 6 and (run.path / "checkpoints").exists(), "six lines")
    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        each.kill()
    process.wait(20)
    done = finish(on_the_way(work, run.path.name, *settings))
    assert done.code == 0, done.stderr
    found = problems(run)
    assert [len(step) for step in found] == [6] * 9
    assert set().union(*found) == set().union(*stream)  # each step has six: none twice


def test_a_stopped_run_goes_on_with_what_it_had_begun_ahead(work: Path, serve: Serve, stream: list[set[str]]) -> None:
    run = RunFolder(work / "stopped")
    settings = [serve.addresses, *MODES["continue"], *RECORDED]
    process = on_the_way(work, run.path.name, *settings)
    wait_until(lambda: len(run.metrics()) >= 4, "four lines")
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    assert "stopped as asked" in done.stdout
    assert finish(on_the_way(work, run.path.name, *settings)).code == 0
    assert problems(run) == stream


def test_without_servers_a_run_ends_and_goes_on_later(work: Path, serve: Serve, stream: list[set[str]]) -> None:
    """The last test here: it ends the servers of the others."""
    run = RunFolder(work / "outlives-ahead")
    settings = [*MODES["continue"], *RECORDED, "rollout.servers.recovery_minutes=0.05"]
    process = on_the_way(work, run.path.name, serve.addresses, *settings)
    wait_until(lambda: len(run.metrics()) >= 4, "four lines")
    for number in (0, 1):
        os.kill(serve.server(number).pid, signal.SIGKILL)
    serve.end()
    done = finish(process)
    assert done.code == 2
    assert "error: " in done.stderr.strip().splitlines()[-1]
    again = Serve(work, SERVERS)
    try:
        done = finish(on_the_way(work, run.path.name, again.addresses, *settings))
        assert done.code == 0, done.stderr
        assert problems(run) == stream
    finally:
        again.end()
