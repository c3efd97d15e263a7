"""`aspo try-reward`: what a reward gives right and wrong responses, and what goes wrong in it, line by line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.command import Finished
from e2e.test_bad_input import call_main

Call = Callable[..., Finished]

MODULE = """
import re

def found(response):
    return re.search("<answer>(.*)</answer>", response)[1]

def score(problem, response):
    return float(found(response) == problem.answer)

def hanging(problem, response):
    while True:
        pass

def none(problem, response):
    return None

def same(problem, response):
    return 0.5

def of_length(problem, response, *, most=10):
    return float(len(response) <= most)

def leaves(problem, response):
    raise SystemExit(3)
"""
RUN = """
output_dir: runs/mine
model: {path: models/none}
data: {train: {kind: files, path: sums.csv, prompt_field: question, answer_field: solution}}
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards_to_try.py").write_text(MODULE)
    (tmp_path / "sums.csv").write_text("question,solution,level\n1 + 1?,2,1\n2 + 2?,4,2\nWho?,Ada,1\n")
    (tmp_path / "run.yaml").write_text(RUN)
    return lambda *words: call_main(["try-reward", *words], monkeypatch, capfd)


def without_seconds(text: str) -> list[str]:
    return re.sub(r" +\d+\.\d{3} s", "", text).splitlines()


def test_the_reward_of_a_run(call: Call) -> None:
    """No model is there, and none is needed."""
    done = call("run.yaml", "--count", "2")
    assert (done.code, done.stderr) == (0, "")
    lines = without_seconds(done.stdout)
    assert lines[:3] == ["problem sums-0: 1 + 1?", "  reference answer: 2", "       1  the answer alone: '2'"]
    assert lines[3].startswith("       1  the answer as models write it: '<think>")
    assert lines[4].startswith(r"       0  a wrong answer: '<think>\n3\n</think>")
    assert lines[5] == "       0  no text: ''"
    assert lines[6] == "problem sums-1: 2 + 2?"
    assert lines[-2:] == ["8 of 8 responses scored", "right answers get up to 1, wrong ones 0 on average"]


def test_what_raises_is_shown_where_it_does(call: Call, tmp_path: Path) -> None:
    done = call("--reward", "rewards_to_try:score", "--problems", "sums.csv", "--count", "1")
    assert (done.code, done.stderr) == (0, "")
    lines = without_seconds(done.stdout)
    reason = "TypeError: 'NoneType' object is not subscriptable"
    at = lines.index(f"  FAILED  the answer alone: {reason} (rewards_to_try.py:5)")
    assert f'        File "{tmp_path}/rewards_to_try.py", line 8, in score' in lines[at:]
    assert f'        File "{tmp_path}/rewards_to_try.py", line 5, in found' in lines[at:]
    assert lines.count(f"      {reason}") == 1  # the same trace is shown once
    assert lines[-2:] == ["2 of 4 responses scored", "right answers get up to 1, wrong ones 0 on average"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("hanging", "the answer alone: scoring took longer than reward.timeout_seconds=0.2"),
        ("none", "ValueError: reward 'rewards_to_try:none' gave None for problem sums-0; it must give a finite number"),
        ("leaves", "SystemExit: 3 (rewards_to_try.py:"),
    ],
)
def test_one_that_never_works(call: Call, kind: str, said: str) -> None:
    words = ["--problems", "sums.csv", "--count", "2", "reward.timeout_seconds=0.2"]
    done = call("--reward", f"rewards_to_try:{kind}", *words)
    assert done.code == 1
    assert said in done.stdout
    late = kind == "hanging"  # a fourth one is not waited for
    counts = "0 of 3 responses scored; 5 not tried, as several took too long" if late else "0 of 8 responses scored"
    assert done.stdout.endswith(f"{counts}\nnone could be scored: such a run would learn nothing\n")
    assert ("problem sums-1" in done.stdout) == (not late)


def test_one_that_tells_nothing_apart(call: Call) -> None:
    done = call("run.yaml", "reward.kind=rewards_to_try:same", "--count", "1")
    assert done.code == 0
    warning = "warning: right answers get no more than wrong ones: does the reward find the answer in the response?"
    assert done.stdout.splitlines()[-1] == warning


def test_a_mixture_is_tried_on_problems_for_each_part(call: Call) -> None:
    parts = {"math": {"kind": "math", "when": {"level": 2}}, "short": {"kind": "rewards_to_try:of_length"}}
    done = call("run.yaml", "reward.kind=mixture", f"reward.components={json.dumps(parts)}", "--count", "2")
    assert (done.code, done.stderr) == (0, "")
    lines = without_seconds(done.stdout)
    assert lines[0] == "problem sums-0: 1 + 1?"
    assert "       1  the answer alone: '2'  (short 1)" in lines
    assert "problem sums-1: 2 + 2?" in lines
    assert "       2  the answer alone: '4'  (math 1, short 1)" in lines


def test_responses_of_a_run(call: Call, tmp_path: Path) -> None:
    given = [
        {"problem": "sums-2", "response": "It is \\boxed{Ada}.", "step": 3},
        {"problem": "sums-2", "response": "?"},
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    done = call("run.yaml", "--responses", "samples.jsonl")
    assert (done.code, done.stderr) == (0, "")
    lines = without_seconds(done.stdout)
    assert lines[0] == "problem sums-2: Who?"
    assert r"       1  given: 'It is \\boxed{Ada}.'" in lines
    assert "       0  given: '?'" in lines
    assert lines[-2] == "6 of 6 responses scored"


def test_multiple_choice(call: Call) -> None:
    """Two problems, of which the second has a letter that its options lack."""
    rows = [{"prompt": "Which?", "answer": answer, "options": ["x", "y"]} for answer in "BC"]
    Path("choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = call("--reward", "choice", "--problems", "choices.jsonl")
    assert (done.code, done.stderr) == (0, "")
    assert "right answers get up to 1, wrong ones 0 on average" in done.stdout
    assert "choice: the reference answer of problem choices-1 must be a letter from A to B" in done.stdout


def test_problems_that_the_reward_cannot_have(call: Call) -> None:
    done = call("run.yaml", "reward.kind=reasoning_gym", "--count", "1")
    assert done.code == 1
    assert "  FAILED  reward.kind: reasoning_gym scores problems of reasoning-gym only" in done.stdout
    assert "0 of 0 responses scored; problems that cannot be scored: 1\n" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which reward? Give a run's file, or --reward KIND and --problems FILE"),
        (["--reward", "math"], "which reward?"),
        (["none.yaml"], "none.yaml (in {here}): no such configuration file"),
        (["run.yaml", "reward.kind=maths"], "reward.kind: unknown reward 'maths'; did you mean 'math'?"),
        (["run.yaml", "--problems", "none.csv"], "--problems: none.csv does not exist"),
        (["run.yaml", "--responses", "none.jsonl"], "--responses: none.jsonl does not exist"),
        (["run.yaml", "--responses", "sums.csv"], "sums.csv:2: a response needs `problem`, the id of its problem, and"),
        (["run.yaml", "--responses", "odd.jsonl"], "there is no problem 'x' in sums.csv; ids are like 'sums-0'"),
        (["run.yaml", "data.train.path=none.csv"], "data.train.path: none.csv does not exist"),
    ],
)  # fmt: skip
def test_what_cannot_be(call: Call, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "odd.jsonl").write_text('{"problem": "x", "response": "a"}\n')
    done = call(*words)
    assert (done.code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert said.replace("{here}", str(tmp_path)) in line
