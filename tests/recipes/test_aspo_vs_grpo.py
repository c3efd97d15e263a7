"""The comparison of losses: its task, that losses of a seed differ in nothing else, and the page of real runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from aspo_megatron.config.io import load_config
from aspo_megatron.data.samples import Problem

FOLDER = Path(__file__).parents[2] / "examples" / "aspo_vs_grpo"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the example."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def shifts(problem: dict[str, str]) -> list[int]:
    """Of each letter: 1 forward, 25 back."""
    pairs = zip(problem["prompt"], problem["answer"], strict=True)
    return [(ord(answer) - ord(letter)) % 26 for letter, answer in pairs]


def test_right_answers_shift_rare_letters_back(module: Any, tmp_path: Path) -> None:
    letters: ModuleType = module("letters")
    letters.write_problems(tmp_path)
    problems = {name: read(tmp_path / f"{name}.jsonl") for name in ("start", "train", "heldout")}
    assert {name: len(found) for name, found in problems.items()} == {"start": 12_000, "train": 4_000, "heldout": 256}
    prompts = [problem["prompt"] for found in problems.values() for problem in found]
    assert len(set(prompts)) == len(prompts)

    ways: dict[str, set[int]] = {}
    for problem in problems["train"] + problems["heldout"]:
        for letter, shift in zip(problem["prompt"], shifts(problem), strict=True):
            ways.setdefault(letter, set()).add(shift)
    rare = {letter for letter, found in ways.items() if found == {25}}
    assert len(rare) == 13
    assert all(ways[letter] == {1} for letter in set(letters.ALPHABET) - rare)
    used = "".join(problem["prompt"] for problem in problems["train"])
    assert sum(letter in rare for letter in used) / len(used) == pytest.approx(0.3, abs=0.01)

    habits = [shift for problem in problems["start"] for shift in shifts(problem)]
    assert habits.count(25) / len(habits) == pytest.approx(0.02, abs=0.002)
    at_rare = [
        shift
        for problem in problems["start"]
        for letter, shift in zip(problem["prompt"], shifts(problem), strict=True)
        if letter in rare
    ]
    assert at_rare.count(25) / len(at_rare) == pytest.approx(0.02, abs=0.004)


def test_the_problems_are_always_the_same(module: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        module("letters").write_problems(tmp_path / name)
    assert read(tmp_path / "a" / "start.jsonl") == read(tmp_path / "b" / "start.jsonl")
    assert read(tmp_path / "a" / "train.jsonl") == read(tmp_path / "b" / "train.jsonl")


def test_short_problems_are_answered_right_from_the_start(module: Any, tmp_path: Path) -> None:
    letters = module("letters")
    letters.write_problems(tmp_path / "long")
    letters.write_short_problems(tmp_path)
    ways = {
        (letter, shift)
        for problem in read(tmp_path / "long" / "train.jsonl")
        for letter, shift in zip(problem["prompt"], shifts(problem), strict=True)
    }
    files = {name: read(tmp_path / f"{name}.jsonl") for name in ("start", "train", "heldout")}
    assert {name: len(found) for name, found in files.items()} == {"start": 420, "train": 420, "heldout": 256}
    for problem in [problem for found in files.values() for problem in found]:
        assert set(zip(problem["prompt"], shifts(problem), strict=True)) <= ways
    assert {one["prompt"] for one in files["train"]}.isdisjoint(one["prompt"] for one in files["heldout"])


@pytest.mark.parametrize(("response", "reward"), [("nrf", 1.0), ("nrg", 0.0), ("nrf ", 0.0), ("", 0.0)])
def test_only_the_right_word_is_rewarded(module: Any, response: str, reward: float) -> None:
    letters = module("letters")
    problem = Problem(id="p", question="msg", prompt_ids=(1,), answer="nrf")
    assert (letters.right(problem, response), letters.wrong(problem, response)) == (reward, 1 - reward)


def test_a_step_makes_twelve_updates() -> None:
    assert load_config(FOLDER / "run.yaml").updates_per_step == 12


def test_runs_of_a_seed_differ_in_the_loss_alone(
    module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare, trained = module("compare"), []

    def train(file: Path, overrides: list[str], *, progress: bool) -> SimpleNamespace:
        assert not progress
        trained.append(load_config(file, overrides))
        return SimpleNamespace(summary=SimpleNamespace(heldout_before=0.1, heldout_after=0.2))

    commands: list[list[str]] = []
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(compare, "train", train)
    monkeypatch.setattr(compare.subprocess, "run", lambda command, check: commands.append(command) or done)
    given = ["compare.py", str(tmp_path), "--losses", "aspo", "grpo", "cispo", "--seeds", "2", "--jobs", "1", "--set"]
    monkeypatch.setattr(sys, "argv", [*given, "train.steps=5", "--first-seed", "21"])
    with pytest.raises(SystemExit) as end:
        compare.main()
    assert end.value.code == 0
    starts = {run.seed: run for run in trained if run.model.init == "random"}
    assert list(starts) == [21, 22]
    assert all(
        run.train.steps == 1 and str(run.data.train.path) == str(tmp_path / "problems/start.jsonl")
        for run in trained[:2]
    )
    runs = [run for run in trained if run.model.init != "random"]
    assert [(run.loss.name, run.seed) for run in runs] == [
        (loss, seed) for seed in (21, 22) for loss in ("aspo", "grpo", "cispo")
    ]
    for run in runs:
        assert run.model.path == starts[run.seed].output_dir / "hf"
        assert run.train.steps == 5
        same = run.model_copy(update={"output_dir": None, "loss": None, "seed": None, "model": None})
        first = runs[0].model_copy(update={"output_dir": None, "loss": None, "seed": None, "model": None})
        assert same == first
    assert len({run.output_dir for run in trained}) == 8
    assert commands[0][3:6] == ["compare", str(tmp_path / "runs"), "--against"]
    assert "[6/6, 0 min] " in capsys.readouterr().out


def test_runs_made_to_collapse_differ_from_run_yaml_in_what_ruins_them(
    module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collapse, trained = module("collapse"), []

    def train(file: Path, overrides: list[str], *, progress: bool) -> SimpleNamespace:
        trained.append(config := load_config(file, overrides))
        return SimpleNamespace(output_dir=config.output_dir, summary=SimpleNamespace())

    def records(run: Path) -> list[dict[str, float]]:
        """One run is ruined, one is not."""
        accuracies = [0.9, 0.95, 0.94, 0.87, 0.7] if "turned" in run.name else [0.9] * 5
        return [
            {"step": step, "reward/mean": 0.5, "eval/avg@4": accuracy, "eval/problems": 256.0}
            for step, accuracy in enumerate(accuracies)
        ]

    monkeypatch.setattr(collapse, "train", train)
    monkeypatch.setattr(collapse, "read_metrics", records)
    monkeypatch.setattr(sys, "argv", ["collapse.py", str(tmp_path), "--seeds", "1", "--jobs", "1"])
    collapse.main()
    told = capsys.readouterr().out
    assert "| rate too high | 11 | none | - | - | none |" in told
    assert "| reward turned | 11 | falling held-out accuracy | 3 | 8.0 points | 4 |" in told

    start, clipped, unclipped, turned = trained
    assert (start.train.steps, start.model.init) == (1, "random")
    assert {run.model.path for run in trained[1:]} == {start.output_dir / "hf"}
    assert {(run.eval.every, run.updates_per_step, run.seed) for run in trained[1:]} == {(1, 4, 11)}
    assert [run.loss.name for run in trained[1:]] == ["grpo", "grpo-without-is", "aspo"]
    assert clipped.optimizer == unclipped.optimizer
    assert clipped.optimizer.lr > 6 * load_config(FOLDER / "run.yaml").optimizer.lr
    assert set(turned.reward.components) == {"turned", "right"}


def test_the_page_is_made_of_real_runs(tmp_path: Path) -> None:
    """Two losses, two seeds, two steps: the whole of the command."""
    small = ["train.steps=2", "eval.every=1", "eval.max_problems=32"]
    command = [sys.executable, "-W", "ignore", str(FOLDER / "compare.py"), str(tmp_path / "runs"), "--seeds", "2"]
    done = subprocess.run(
        [*command, "--losses", "aspo", "grpo", "--jobs", "1", "--set", *small],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[4/4, " in done.stdout
    page = (tmp_path / "runs" / "page.md").read_text()
    for heading in (
        "# ASPO beside its rivals",
        "## What the runs show",
        "## Paired differences",
        "## Alarms",
        "## Weights of tokens by their probability",
    ):
        assert f"{heading}\n" in page
    assert "None of 4 runs raised an alarm of a collapse." in page
    for name in ("curves", "differences", "weights"):
        assert (tmp_path / "runs" / f"page-{name}.png").stat().st_size > 10_000
