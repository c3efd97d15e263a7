"""`aspo eval` on benchmarks: what it writes, and that one that was killed goes on to the same result."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow
import pytest
from pyarrow.parquet import write_table
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from aspo_megatron.cli import app
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.evaluation.named_model import label_of
from aspo_megatron.evaluation.results import read_scores
from aspo_megatron.rewards.choice.reward import stated

from .command import ASPO, TINY_MODEL, Finished, aspo, finish, start, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

REWARD = """
import time

def score(problem, response):
    time.sleep(0.05)  # so that there is time for a kill
    return float(len(response) % 2)
"""
SETTINGS = [
    "data.format=raw",
    "data.template={prompt} =",
    "eval.sampling.max_response_tokens=6",
    "eval.samples=2",
    "eval.chunk=1",
    "reward={kind: eval_reward:score, workers: 1}",
]
AIME, GSM8K = 3, 16


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of random weights, two files of problems and a reward."""
    folder = tmp_path_factory.mktemp("eval")
    model = Path(shutil.copytree(TINY_MODEL, folder / "runs" / "small" / "hf"))
    weights = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).state_dict()
    del weights["lm_head.weight"]  # tied
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (folder / "eval_reward.py").write_text(REWARD)
    for name, count, field in (("aime", AIME, "prompt"), ("gsm8k", GSM8K, "question")):
        rows = [{field: f"{n} + {n * n}", "answer": f"It is #### {n + n * n}"} for n in range(count)]
        if name == "aime":
            write_table(pyarrow.Table.from_pylist(rows), folder / "aime.parquet")
        else:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def arguments(output: str, *settings: str) -> list[str]:
    benchmarks = "aime24=aime.parquet,gsm8k=gsm8k.jsonl"
    return ["eval", "runs/small/hf", "--benchmark", benchmarks, "--output", output, *SETTINGS, *settings]


@pytest.fixture(scope="module")
def whole(work: Path) -> Finished:
    """Both benchmarks without a disturbance."""
    done = aspo(*arguments("evals/whole"), folder=work)
    assert (done.code, done.stderr) == (0, "")
    return done


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_every_response_and_the_scores_are_kept(work: Path, whole: Finished) -> None:
    assert "aime24: 3 problems, where the benchmark has 30" in whole.stdout
    for name, count in (("aime24", AIME), ("gsm8k", GSM8K)):
        path = work / "evals" / "whole" / f"{name}.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert [record["index"] for record in records] == [index for index in range(count) for _ in range(2)]
        assert all(record["reward"] == len(record["response"]) % 2 for record in records)
        content = read_scores(path.with_suffix(".scores.json"))
        assert (content["benchmark"], content["model"], content["complete"]) == (name, "small", True)
        assert content["thinking"] == "none"  # there is no template
        right = [sum(r["reward"] >= 1 for r in records if r["index"] == index) for index in range(count)]
        assert content["right"] == right
        average = content["scores"]["avg@2"]
        assert average["value"] == pytest.approx(sum(right) / count / 2)
        assert f"{name}: {count} problems, 2 responses each" in whole.stdout
        shown = f"avg@2  {average['value']:.1%}  ({average['low']:.1%} to {average['high']:.1%})"
        assert shown in whole.stdout


def test_one_that_was_killed_goes_on(work: Path, whole: Finished) -> None:
    """kill -9 in the second benchmark; nothing is asked twice, nothing is missing, no process is left."""
    folder = work / "evals" / "killed"
    process = start([*ASPO, *arguments("evals/killed")], work)
    try:
        wait_until(lambda: lines(folder / "gsm8k.jsonl") >= 6 or process.poll() is not None, "some problems", 300)
    except AssertionError:
        os.kill(process.pid, signal.SIGKILL)
        raise
    ours = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    psutil.wait_procs(ours, timeout=20)
    assert not [each for each in ours if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    done_before = lines(folder / "gsm8k.jsonl")
    assert 6 <= done_before < 2 * GSM8K
    assert not read_scores(folder / "gsm8k.scores.json")["complete"]
    done = aspo(*arguments("evals/killed"), folder=work)
    assert (done.code, done.stderr) == (0, "")
    assert "of 16 problems were done before" in done.stdout
    for name in ("aime24.jsonl", "gsm8k.jsonl", "aime24.scores.json", "gsm8k.scores.json"):
        assert (folder / name).read_bytes() == (work / "evals" / "whole" / name).read_bytes()


def test_multiple_choice_from_the_rows_of_its_datasets(work: Path) -> None:
    """What is right is told by the letter of each problem's own options, with the reward that belongs to it."""
    arc = [
        {
            "id": str(n),
            "question": f"{n} + 1?",
            "choices": {"text": ["0", str(n + 1)], "label": ["1", "2"]},
            "answerKey": "2",
        }
        for n in range(2)
    ]
    (work / "arc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in arc))
    (work / "gpqa.csv").write_text(
        "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n1 + 1?,2,3,4,5\n"
    )
    named = ["--benchmark", "arc-c=arc.jsonl,gpqa-diamond=gpqa.csv", "--output", "evals/choice"]
    settings = [setting for setting in SETTINGS if not setting.startswith("reward=")]
    done = aspo("eval", "runs/small/hf", *named, *settings, folder=work)
    assert (done.code, done.stderr) == (0, "")
    assert "gpqa-diamond: 1 problems, where the benchmark has 198" in done.stdout
    for name, count in (("arc-c", 2), ("gpqa-diamond", 1)):
        records = [json.loads(line) for line in (work / "evals" / "choice" / f"{name}.jsonl").read_text().splitlines()]
        assert len(records) == 2 * count
        assert {record["answer"] for record in records} <= set("B" if name == "arc-c" else "ABCD")
        assert all(record["reward"] == (stated(record["response"]) == record["answer"]) for record in records)
        assert read_scores(work / "evals" / "choice" / f"{name}.scores.json")["failed"] == 0


BROKEN = """
def some(problem, response):
    if int(problem.id[-1]) % 2:
        raise OSError("the judge does not answer")
    return 1.0

def only_answers(problem, response):
    return float({problem.answer: 1}[response])

def none(problem, response):
    return response.score
"""


def broken_reward(name: str, output: str) -> list[str]:
    reward = f"reward={{kind: broken_reward:{name}, workers: 1}}"
    return ["eval", "runs/small/hf", "--benchmark", "aime24=aime.parquet", "--output", output, *SETTINGS, reward]


@pytest.mark.thorough
def test_responses_that_cannot_be_scored(work: Path) -> None:
    (work / "broken_reward.py").write_text(BROKEN)
    done = aspo(*broken_reward("some", "evals/some"), folder=work)
    assert done.code == 3
    said = "failed  2 responses could not be scored, and count as wrong; the first: OSError: the judge does not answer"
    assert said in done.stdout
    content = read_scores(work / "evals" / "some" / "aime24.scores.json")
    assert (content["failed"], content["right"], content["complete"]) == (2, [2, 0, 2], True)
    assert "the judge does not answer" in content["first_failure"]
    table = CliRunner().invoke(app.app, ["table", str(work / "evals" / "some")], catch_exceptions=False).output
    assert "2 responses could not be scored, and count as wrong" in table


@pytest.mark.thorough
def test_a_reward_that_scores_nothing_ends_the_evaluation_and_leaves_what_can_go_on(work: Path) -> None:
    (work / "broken_reward.py").write_text(BROKEN)
    done = aspo(*broken_reward("only_answers", "evals/none"), folder=work)
    assert done.code == 2
    assert "reward: none of 2 responses could be scored; the first, to aime-0: KeyError" in done.stderr
    assert lines(work / "evals" / "none" / "aime24.jsonl") == 0
    assert read_scores(work / "evals" / "none" / "aime24.scores.json")["complete"] is False


def test_a_broken_reward_is_found_before_any_process_is_started(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "broken_reward.py").write_text(BROKEN)
    monkeypatch.chdir(work)
    with pytest.raises(ConfigError, match=r"a trial of it fails: asked what .* is worth as .* AttributeError"):
        CliRunner().invoke(app.app, broken_reward("none", "evals/trial"), catch_exceptions=False)
    assert not (work / "evals" / "trial").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["runs/small/hf"], "nothing to evaluate on: give --benchmark NAME, --problems FILE or --config"),
        (["runs/small/hf", "--benchmark", "aime"], "--benchmark aime: no such benchmark; the nearest is 'aime2"),
        (["runs/small/hf", "--benchmark", "amc23", "--problems", "x.jsonl"], "are both given: leave one out"),
        (["runs/small/hf", "--benchmark", "amc23", "--output", "x.jsonl"], "with --benchmark, name a folder"),
        (["nowhere", "--benchmark", "gsm8k=gsm8k.jsonl"], "nowhere"),
        (["runs/small/hf", "--benchmark", "gsm8k=aime.json"], "aime.json does not exist"),
        (
            ["runs/small/hf", "--benchmark", "gsm8k=gsm8k.jsonl"],
            "the model's tokenizer has no chat template; set data.format: raw",
        ),
        (
            ["runs/small/hf", "--benchmark", "gsm8k=gsm8k.jsonl", "data.format=raw"],
            "exceed the model's context of 256 tokens; lower sampling.max_response_tokens",
        ),
    ],
)
def test_bad_input_is_one_line(work: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], said: str) -> None:
    monkeypatch.chdir(work)
    with pytest.raises(UserError) as error:
        CliRunner().invoke(app.app, ["eval", *argv], catch_exceptions=False)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_that_the_hub_does_not_give(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> Callable[[], None]:
        raise OSError("no\nnetwork")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(
        ConfigError, match=r"^org/name@v2: no such folder, and the Hub does not provide it \(no network\)$"
    ):
        CliRunner().invoke(app.app, ["eval", "org/name@v2", "--benchmark", "gsm8k"], catch_exceptions=False)


def test_names_of_models() -> None:
    names = {
        "runs/aspo/hf": "aspo",
        "/data/runs/aspo/exports/step-000040": "aspo-step-000040",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": "DeepSeek-R1-Distill-Qwen-1.5B",
        "../hf": "hf",
        "models/SmolLM2/": "SmolLM2",
        f"/c/models--Qwen--Qwen3-0.6B/snapshots/{'0a' * 20}": "Qwen3-0.6B",
    }
    assert {model: label_of(model) for model in names} == names
