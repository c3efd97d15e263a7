"""`aspo init`: what it writes is a run that is accepted as it is, once its model and problems are there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from e2e.command import TINY_MODEL, Finished
from e2e.test_bad_input import call_main

from aspo_megatron.cli.first_steps.run_file import scalar
from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.inputs.read import read_inputs

Call = Callable[..., Finished]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    return lambda *words: call_main(["init", *words], monkeypatch, capfd)


def switched_on(text: str) -> str:
    """The file with all settings that are commented out."""
    return re.sub(r"^( *)#(?=\w)", r"\1", text, flags=re.MULTILINE)


def test_what_it_writes_is_read(tmp_path: Path, call: Call) -> None:
    done = call()
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "run.yaml: written. Next:",
        "  hf download Qwen/Qwen2.5-0.5B-Instruct --local-dir models/Qwen2.5-0.5B-Instruct",
        "  aspo doctor run.yaml",
        "  aspo try-reward run.yaml",
        "  aspo train run.yaml",
    ]
    text = (tmp_path / "run.yaml").read_text()
    config = load_config(tmp_path / "run.yaml")
    assert str(config.model.path) == "models/Qwen2.5-0.5B-Instruct"
    assert (config.data.train.path, config.data.train.answer_field) == ("problems.jsonl", "answer")
    assert config.updates_per_step == 8
    # Each setting that is commented out is one, with its comment behind it, and changes something.
    (tmp_path / "all.yaml").write_text(switched_on(text))
    everything = load_config(tmp_path / "all.yaml", ["rollout.engine=embedded", "log.wandb=offline"])
    assert everything.parallel.tp == 2
    count = len(re.findall(r"^ *#\w.*  # \w", text, flags=re.MULTILINE))
    assert count == len(re.findall(r"^ *#\w", text, flags=re.MULTILINE)) > 10
    assert set(yaml.safe_load(text)) <= set(RunConfig.model_fields)
    assert max(map(len, text.splitlines())) <= 120


def test_the_download_of_a_model_that_is_not_there(tmp_path: Path, call: Call) -> None:
    done = call("--model", "models/Mine-7B")
    line = "hf download ORGANISATION/Mine-7B --local-dir models/Mine-7B"
    assert f"  {line}\n" in done.stdout
    assert f"  #   {line}\n" in (tmp_path / "run.yaml").read_text()


def test_nothing_is_overwritten(tmp_path: Path, call: Call) -> None:
    (tmp_path / "run.yaml").write_text("mine")
    done = call()
    assert (done.code, done.stderr) == (2, "error: run.yaml: already exists; name another file: aspo init FILE\n")
    assert (tmp_path / "run.yaml").read_text() == "mine"
    assert call("other.yaml").code == 0
    assert str(load_config(tmp_path / "other.yaml").output_dir) == "runs/other"


def test_a_run_with_a_model_and_a_table(tmp_path: Path, call: Call) -> None:
    """The inputs are checked as `aspo train` does."""
    (tmp_path / "sums.csv").write_text(
        "question,solution,level\n" + "".join(f"{n} + 1?,{n + 1},1\n" for n in range(12))
    )
    done = call("sums.yaml", "--data", "sums.csv", "--model", str(TINY_MODEL), "--loss", "grpo")
    assert done.stdout.splitlines()[1] == "  aspo doctor sums.yaml"  # the model is there
    text = (tmp_path / "sums.yaml").read_text()
    assert "# Fields in this file: question, solution, level\n" in text
    short = ["model.init=random", "rollout.sampling.max_response_tokens=64"]  # of that model
    config = load_config(tmp_path / "sums.yaml", short)
    assert (config.data.format, config.loss.name) == ("raw", "grpo")
    assert (config.data.train.prompt_field, config.data.train.answer_field) == ("question", "solution")
    inputs = read_inputs(config)
    assert (len(inputs.train), len(inputs.heldout)) == (11, 1)


@pytest.mark.parametrize(
    ("row", "options", "fields"),
    [
        ({"instruction": "a", "label": "b"}, [], ("instruction", "label")),
        ({"Problem": "a", "target": 1}, [], ("Problem", "target")),
        ({"prompt": [{"role": "user", "content": "a"}], "reward_model": {"ground_truth": "b"}}, [],
         ("prompt", "reward_model.ground_truth")),
        ({"question": "a", "mark": 3}, ["--reward", "mine:score"], ("question", None)),
        ({"text": "a", "mark": 3}, ["--prompt-field", "text", "--answer-field", "mark"], ("text", "mark")),
    ],
)  # fmt: skip
def test_fields_are_guessed(
    tmp_path: Path, call: Call, row: dict[str, object], options: list[str], fields: tuple[str, str | None]
) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps(row))
    done = call("--data", "d.jsonl", *options)
    assert (done.code, done.stderr) == (0, "")
    source = load_config(tmp_path / "run.yaml").data
    assert (source.train.prompt_field, source.train.answer_field) == fields
    assert source.heldout_fraction == 0.0  # of one problem


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--data", "none.csv"],
            "--data: none.csv does not exist (in {here}); give a JSONL, JSON, CSV or Parquet file",
        ),
        (["--data", "d.csv"], "d.csv: which field is the question? It has: text, mark; give --prompt-field NAME"),
        (["--data", "d.csv", "--prompt-field", "text"], "which field is the answer? It has: text, mark; give"),
        (["--data", "d.csv", "--prompt-field", "txt", "--answer-field", "mark"], "d.csv:2: no field 'txt'"),
        (["--reward", "maths"], "--reward maths: must be math, code, choice or module:function"),
        (["--loss", "asop"], "the nearest is 'aspo'"),
        (["--output-dir", "${a}"], "output_dir"),
        (["--data", "latin.csv"], "the first: latin.csv:2: not UTF-8 text"),
        (["--data", "heads.csv"], "--data: heads.csv holds no problem"),
        (["--data", "tabs.txt"], "not valid JSON (Expecting value, column 1); of a table, the name must end in .csv,"),
        (["--data", "sheet.xlsx"], "sheet.xlsx: not UTF-8 text: the file is a zip archive; unzip it, or if it is a sp"),
        (["folder/run.yaml"], "folder/run.yaml: cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be(tmp_path: Path, call: Call, options: list[str], said: str) -> None:
    (tmp_path / "d.csv").write_text("text,mark\na,1\n")
    (tmp_path / "latin.csv").write_text("question,answer\nfor the caf\u00e9,1\n", encoding="latin-1")
    (tmp_path / "heads.csv").write_text("question,answer\n")
    (tmp_path / "tabs.txt").write_text("question\tanswer\na\t1\n")
    (tmp_path / "sheet.xlsx").write_bytes(b"PK\x03\x04\x14")
    there = {path.name for path in tmp_path.iterdir()}
    done = call(*options)
    assert done.code == 2
    (line,) = done.stderr.splitlines()
    assert said.replace("{here}", str(tmp_path)) in line
    assert {path.name for path in tmp_path.iterdir()} == there


@pytest.mark.parametrize("text", ["a/b-1.csv", "no", "1e5", "a: b", "a #b", "~", "'", '"', "\u00fc\n#x", "", "-", "/a"])
def test_texts_stay_what_they_are(text: str) -> None:
    assert yaml.safe_load(f"key: {scalar(text)}  # why\n") == {"key": text}


def test_odd_names_stay_in_their_lines(tmp_path: Path, call: Call) -> None:
    (tmp_path / "odd name\n#x: 1.csv").write_text('"question\n#seed: 5",answer,"x\n  y: 1"\na,1,2\n')
    done = call("my run.yaml", "--data", "odd name\n#x: 1.csv", "--prompt-field", "question\n#seed: 5")
    assert (done.code, done.stderr) == (0, "")
    text = (tmp_path / "my run.yaml").read_text()
    assert "aspo train 'my run.yaml'" in text
    source = load_config(tmp_path / "my run.yaml").data.train
    assert (source.path, source.prompt_field) == ("odd name\n#x: 1.csv", "question\n#seed: 5")
    assert load_config(tmp_path / "my run.yaml").seed == 1
