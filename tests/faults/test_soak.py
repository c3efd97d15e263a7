"""The short form of `python -m benchmarks.soak`: a run that is disturbed ends as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.soak.__main__ import at_calls, main, soak
from benchmarks.soak.calls import draw_calls
from benchmarks.soak.faults import Fault, draw
from benchmarks.soak.injection import ERRORS, KILL_PARENT, KILLS, Call
from benchmarks.soak.recipe import differences, unexplained


@pytest.mark.e2e
@pytest.mark.distributed
@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_disturbed_run_ends_as_an_undisturbed_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Four faults of a seed; and then, with the same two runs, that each kind of difference is seen."""
    faults = draw(seed=1, steps=24, count=4, longest=2.0)
    assert soak(tmp_path, 24, faults, seed=1) == []
    assert "nothing is lost: 4 faults" in capfd.readouterr().out
    told = len(differences(tmp_path / "disturbed", tmp_path / "whole"))  # on a slow machine an export that had no room
    for number, spoil in enumerate(SPOILERS):
        other = tmp_path / f"spoilt-{number}"
        shutil.copytree(tmp_path / "disturbed", other)
        spoil(other)
        assert len(differences(other, tmp_path / "whole")) == told + 1, spoil


@pytest.mark.thorough
@pytest.mark.e2e
@pytest.mark.distributed
@pytest.mark.timeout(900)
def test_a_fault_at_a_call_of_a_whole_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every file of a run is seen by the library; a kill in a write, and one of the launcher."""
    assert at_calls(tmp_path, 2, seed=8) == []
    said = capfd.readouterr().out
    assert "nothing is lost" in said
    assert [kind in said for kind in (":torn:", ":kill-parent:")] == [True, True]


def test_what_started_the_launcher_is_not_killed(tmp_path: Path) -> None:
    calls = [Call(1, rank, number, "write", 0, tmp_path) for rank in ("launcher", "0") for number in range(1, 30)]
    faults = draw_calls(calls, 0, seed=1)
    assert {fault.kind for fault in faults if fault.rank == "0"} == {*ERRORS, *KILLS, KILL_PARENT}
    assert {fault.kind for fault in faults if fault.rank == "launcher"} == {*ERRORS, *KILLS}


def test_what_is_missing_after_a_fault_must_have_been_said() -> None:
    said = "warning: /run/exports/step-000004: could not be written (full); the run continues"
    missing = "exports/step-000004/model.safetensors: missing"
    last = "the last state is that of step 3, not 6"
    others = [
        "exports/step-000002/config.json: missing",
        missing.replace("missing", "other content"),
        last,
        "metrics.jsonl",
    ]
    assert unexplained([missing, *others], f"step 4\n{said}\n") == others
    assert unexplained([missing], said.removeprefix("warning: ")) == [missing]
    lost = "warning: /run/checkpoints/step-{:06d} was not saved (full); the run continues"
    assert unexplained([last], lost.format(6)) == []
    assert unexplained([last], lost.format(3)) == [last]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def change_figure(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[7]["reward/mean"] += 1e-7
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def drop_line(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))


SPOILERS: list[Callable[[Path], object]] = [
    lambda run: flip(run / "hf" / "model.safetensors"),
    lambda run: (run / "hf" / "tokenizer.json").unlink(),
    lambda run: flip(run / "eval" / "step-000024.jsonl"),
    lambda run: (run / "eval" / "step-000018.jsonl").unlink(),
    lambda run: flip(run / "samples.jsonl"),
    lambda run: flip(next((run / "checkpoints" / "step-000024").glob("*.distcp"))),
    lambda run: (run / "checkpoints" / "latest").write_text("step-000021\n"),
    lambda run: (run / "summary.json").write_text("{}"),
    lambda run: flip(run / "exports" / "step-000024" / "model.safetensors"),
    change_figure,
    drop_line,
]


def test_every_kind_of_fault_comes_before_one_comes_again() -> None:
    for seed in range(20):
        faults = draw(seed, steps=100, count=24, longest=60.0)
        for part in (faults[:12], faults[12:]):
            assert len({(fault.what, fault.victim) for fault in part}) == 12
        steps = [fault.step for fault in faults if fault.step is not None]
        assert steps == sorted(steps)
        assert len(steps) == 20
        assert all(1.0 <= fault.seconds <= 60.0 for fault in faults if fault.seconds is not None)
    assert draw(3, 100, 24, 60.0) == draw(3, 100, 24, 60.0) != draw(4, 100, 24, 60.0)


def test_faults_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "7", "--faults", "9", "--show"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 9
    assert str(Fault("stop", "rank 1", 3, 0.5, 2.0)) == "after step 3 and 0.50 s: SIGSTOP to rank 1 for 2.0 s"
    assert str(Fault("kill", "all", None, 4.0)) == "after 4.00 s: SIGKILL to all"


@pytest.mark.parametrize("words", [["--steps", "3"], ["--steps", "many"], ["--faults", "-1"], ["--unknown"], ["word"]])
def test_bad_arguments_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
